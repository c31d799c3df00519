"""What is said to whoever creates or changes a FineTuneJob."""

import logging
from typing import Any

import kopf
import pytest
from hypothesis import HealthCheck, given, settings

from finetune_api.status import FineTuneJobStatus
from finetune_operator import admission, validation, webhook
from finetune_operator.admission import Verdict, review
from finetune_operator.tenancy import NO_POLICY, Policy, administered
from generated import is_valid, job_of, specs
from world import manifest

Wire = dict[str, Any]

H200 = {"nodes": 1, "gpusPerNode": 8, "gpuMemory": "141Gi"}


def osft(*patterns: str, **spec: Any) -> Wire:
    return manifest(method="osft", osft={"targetPatterns": list(patterns)}, **spec)


def test_a_sound_job_passes_without_a_word() -> None:
    assert review(manifest(resources=H200)) == Verdict()


def test_advice_is_given_and_never_denies() -> None:
    verdict = review(manifest(resources=H200, hyperparameters={"learningRate": 1e-3}))
    assert verdict.denials == ()
    [warning] = verdict.warnings
    assert warning.startswith("spec.hyperparameters.learningRate: ")
    assert "1e-3 is 200 times 5e-6" in warning


def test_the_model_s_size_is_taken_from_its_name() -> None:
    large = {"volume": {"claimName": "models", "path": "llama-3.1-70b"}}
    small = {"nodes": 1, "gpusPerNode": 1, "gpuMemory": "24Gi"}
    [warning] = [w for w in review(manifest(model=large, resources=small)).warnings if "24" in w]
    assert "GiB" in warning


def test_every_fault_is_denied_with_its_path() -> None:
    verdict = review(osft("q_proj", "layers[", "(?P<x"))
    assert [denial.split(":")[0] for denial in verdict.denials] == [
        "spec.osft.targetPatterns[1]",
        "spec.osft.targetPatterns[2]",
    ]
    assert all("is not a regular expression" in denial for denial in verdict.denials)
    assert verdict.refusal == f"\n* {verdict.denials[0]}\n* {verdict.denials[1]}"


def test_one_fault_is_told_in_one_line() -> None:
    verdict = review(osft("layers["))
    assert [verdict.refusal] == list(verdict.denials)


def test_a_change_that_leaves_the_spec_alone_passes_whatever_is_wrong_with_it() -> None:
    old, new = osft("layers["), osft("layers[")
    new["metadata"]["labels"] = {"team": "a"}
    assert review(new, old) == Verdict()


def test_a_fault_that_was_there_before_is_told_and_does_not_deny() -> None:
    verdict = review(osft("layers[", failurePolicy={"maxRestarts": 9}), osft("layers["))
    assert verdict.denials == ()
    [warning] = verdict.warnings
    assert warning.startswith("spec.osft.targetPatterns[0]: ")


def test_a_change_that_brings_in_a_fault_is_denied_with_all_of_them() -> None:
    assert len(review(osft("layers[", "q("), osft("layers[")).denials) == 2
    assert len(review(osft("q("), osft("layers[")).denials) == 1
    assert len(review(osft("q("), osft("q")).denials) == 1


def test_a_change_that_mends_a_job_is_advised_like_a_new_one() -> None:
    assert review(osft("q"), osft("q(")) == review(osft("q"))


@pytest.mark.parametrize("spec", [None, [], "x", {"method": 7}, {"resources": {"nodes": []}}])
def test_what_no_api_server_would_take_is_denied_without_an_exception(spec: Any) -> None:
    assert review({**manifest(), "spec": spec}).denials


def test_warnings_are_single_lines_for_they_travel_in_a_header() -> None:
    odd = osft("a\n\t\x7f[")
    [warning] = review(osft("a\n\t\x7f[", resources=H200), odd).warnings
    assert warning.isprintable()


class TestPolicy:
    """What an administrator does not allow is denied where a change brings it in."""

    RULES = Policy.model_validate({"namespaces": {"*": {"limits": {"maxNodes": 1}}}})

    def test_a_job_that_exceeds_a_limit_is_denied(self) -> None:
        [denial] = review(manifest(), policy=self.RULES).denials
        assert denial.startswith("spec.resources.nodes: 2 is more than")
        assert review(manifest(resources={"nodes": 1, "gpusPerNode": 0}), policy=self.RULES) == Verdict()

    def test_one_that_did_so_before_stays_editable_and_is_told(self) -> None:
        old, new = manifest(), manifest(failurePolicy={"maxRestarts": 9})
        verdict = review(new, old, self.RULES)
        assert verdict.denials == ()
        assert verdict.warnings[0].startswith("spec.resources.nodes: 2 is more than")
        more = manifest(resources={"nodes": 3, "gpusPerNode": 0})
        assert review(more, old, self.RULES).denials

    def test_what_is_advised_is_advised_of_the_job_with_its_defaults(self) -> None:
        wire = manifest(storage={})
        assert review(wire).denials == (
            "spec.storage.claimName: is required: the administrator has set no default for namespace default",
        )
        rules = Policy.model_validate({"namespaces": {"*": {"defaults": {"storageClaimName": "runs"}}}})
        assert review(wire, policy=rules) == Verdict()
        # Once it has begun, its claim is on record.
        begun = {"startTime": "2026-01-01T12:00:00Z", "defaults": {"storageClaimName": "runs"}}
        changed = manifest(storage={}, failurePolicy={"maxRestarts": 9})
        assert review(changed | {"status": begun}, wire | {"status": begun}) == Verdict()


def refusals(valid: Wire) -> tuple[str, ...]:
    return administered(validation.parse(valid), FineTuneJobStatus(), NO_POLICY).refusals


@settings(
    deadline=None,
    max_examples=settings().max_examples // 4,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(spec=specs(), other=specs())
def test_whatever_it_is_asked_it_answers_in_lines_that_a_header_can_carry(spec: Wire, other: Wire) -> None:
    new, old = job_of(spec), job_of(other)
    created, changed = review(new), review(new, old)
    assert bool(created.denials) == (not is_valid(new) or bool(refusals(new)))
    assert not changed.denials or created.denials
    for line in (*created.warnings, *changed.warnings):
        assert line.isprintable()
        assert line.startswith(("spec.", "spec: "))


# At the edge


def asked(body: Wire, old: Wire | None = None) -> list[str]:
    warnings: list[str] = []
    webhook.validate(
        NO_POLICY, body=body, old=old, warnings=warnings, name="demo", namespace="team", operation="CREATE"
    )
    return warnings


def test_warnings_are_handed_on() -> None:
    body = manifest(hyperparameters={"learningRate": 1e-3})
    assert asked(body) == list(review(body).warnings) != []


def test_a_denial_is_told_and_logged_without_alarm(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(kopf.AdmissionError, match=r"targetPatterns\[0\]") as denied:
        asked(osft("layers["))
    assert denied.value.code == 422
    [record] = caplog.records
    told = record.__dict__
    assert (record.levelname, told["namespace"], told["job"]) == ("INFO", "team", "demo")


def test_a_fault_of_the_operator_s_own_lets_everybody_through(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(spec: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(admission, "study", broken)
    assert asked(manifest()) == []
    [record] = caplog.records
    assert record.levelname == "ERROR"
    assert record.exc_info is not None
