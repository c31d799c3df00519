"""The RunConfig and its name."""

from finetune_api.runconfig import Locations, RunConfig, run_config
from finetune_api.spec import FineTuneJob
from unit.test_spec import manifest

LOCATIONS = Locations(model="/m", data={"train": ["/t.jsonl"]}, storage="/s")


def config(**spec: object) -> RunConfig:
    value = manifest(**spec)
    value["metadata"]["uid"] = "u-1"
    return run_config(FineTuneJob.model_validate(value), LOCATIONS, "https://operator/report")


def test_it_survives_the_journey_into_a_pod() -> None:
    sent = config(hyperparameters={"learningRate": 1e-4})
    assert RunConfig.model_validate_json(sent.to_json()) == sent


def test_equal_configurations_have_equal_digests() -> None:
    assert config().digest == config().digest
    assert config().digest != config(hyperparameters={"seed": 1}).digest


def test_one_process_per_gpu_or_one_without_any() -> None:
    gpus = config(resources={"nodes": 2, "gpusPerNode": 8})
    assert (gpus.world_size, gpus.use_gpu) == (16, True)
    cpu = config(resources={"nodes": 2, "gpusPerNode": 0})
    assert (cpu.world_size, cpu.use_gpu) == (2, False)
