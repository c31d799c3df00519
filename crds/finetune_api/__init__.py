"""The FineTuneJob API: what the operator and the trainer agree on.

Everything here is pure and needs pydantic only, so both images carry it.
"""
