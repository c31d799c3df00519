"""How a model does on data that it is not trained on."""
