"""The API server and the models read a FineTuneJob alike, whatever it says: thousands of specs, right and wrong.

Three differences are known, and each has its test:
- What is a regular expression, only the models can tell.
- 8.000000001 is an integer to the API server, which looks at nine digits.
- Rules in CEL cannot read 8.0. kubectl never sends it: it writes whole numbers without a point.
"""

import json
import re
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from cluster.answers import Answer, ApiServer
from cluster.kube import FINETUNEJOBS, Namespace
from finetune_api.plan import study
from finetune_operator import validation
from finetune_operator.lifecycle.reconcile import reconcile
from finetune_operator.objects import pod_groups, workload
from finetune_operator.observation.observed import Observed
from finetune_operator.observation.reading import subject
from finetune_operator.status import conditions
from generated import DATA, FIELDS, RULE_BREAKERS, SCHEMA, Wire, families, jobs, one_field_at_a_time, replaced
from world import INSTALLATION, START, manifest

# The same cases every time, and more of them with a profile of hypothesis that has more.
SETTINGS = settings(
    max_examples=2 * settings().max_examples,
    derandomize=True,
    phases=(Phase.generate, Phase.shrink),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NO_REGULAR_EXPRESSION = re.compile(
    r"spec\.(osft\.targetPatterns|lora\.targetModules)\[\d+\]: is not a regular expression: "
)

RULE_MESSAGES = [
    rule["message"]
    for _, schema in [((), SCHEMA), *FIELDS]
    for rule in schema.get("x-kubernetes-validations", [])
]


@pytest.fixture
def planned(namespace: Namespace) -> Namespace:
    """A namespace with a FineTuneJob of which no operator knows."""
    namespace.submit()
    return namespace


def field(problem: str) -> str:
    """The field that a problem of the models names."""
    return problem.split(": ", 1)[0]


def related(one: str, other: str) -> bool:
    """Whether two fields are the same, or one of them is part of the other."""
    short, long = sorted((one, other), key=len)
    return long == short or long.startswith((f"{short}.", f"{short}["))


def strangers(fields: Iterable[str], others: Iterable[str]) -> list[str]:
    """The fields that have nothing to do with any of the others."""
    known = list(others)
    return [field for field in fields if not any(related(field, other) for other in known)]


def difference(wire: Wire, answer: Answer) -> str | None:
    """Where the models and the API server do not read a FineTuneJob alike; None if they do."""
    job, problems = validation.read(wire)
    if problems and all(map(NO_REGULAR_EXPRESSION.match, problems)):
        if answer.stored is not None:
            return None if validation.read(answer.stored)[1] == problems else f"not when stored: {problems}"
        for problem in problems:
            wire = replaced(
                wire, tuple(field(problem).removeprefix("spec.").partition("[")[0].split(".")), ["a"]
            )
        job, problems = validation.read(wire)
    if (job is None) != (answer.stored is None):
        return f"models: {problems or 'valid'}\n  API server: {answer.text or 'valid'}"
    if job is not None and answer.stored is not None:
        stored, problems = validation.read(answer.stored)
        if stored is None or stored.spec != job.spec:
            return f"stored, it is another: {problems or stored}"
        return None
    if different := strangers(answer.fields, map(field, problems)):
        return (
            f"the API server alone speaks of {different}\n  models: {problems}\n  API server: {answer.text}"
        )
    if answer.only_unknown or not answer.fields:
        return None
    mentionable = [
        problem
        for problem in problems
        if not NO_REGULAR_EXPRESSION.match(problem)
        and (answer.rules_checked or not any(rule in problem for rule in RULE_MESSAGES))
    ]
    if different := strangers(map(field, mentionable), answer.fields):
        return f"the models alone speak of {different}\n  models: {problems}\n  API server: {answer.text}"
    return None


def operate(stored: Wire) -> None:
    """Let the operator decide on a FineTuneJob as the API server returned it; whatever it is, no exception."""
    # A dry run leaves out what only storing makes.
    found = subject(stored | {"metadata": stored["metadata"] | {"resourceVersion": "1"}})
    status = reconcile(found, Observed(), START, INSTALLATION).status
    assert status is not None
    if found.job is None:
        accepted = conditions.find(status.conditions, conditions.ACCEPTED)
        assert accepted is not None
        assert accepted.status == "False"
        assert accepted.message.startswith("spec.")
    else:
        assert all(finding.field.startswith("spec") for finding in study(found.job.spec).findings)


def check(api_server: ApiServer, wires: Sequence[Wire]) -> int:
    """Compare both readings of every FineTuneJob, and let the operator have what is taken: returns how many."""
    differences, taken = [], 0
    for wire, answer in api_server.ask_all(wires):
        if found := difference(wire, answer):
            differences.append(f"{json.dumps(wire['spec'])[:600]}\n  {found}")
        if answer.stored is not None:
            taken += 1
            operate(answer.stored)
    assert not differences, f"{len(differences)} differences:\n" + "\n".join(differences[:10])
    return taken


def test_both_say_the_same_at_every_edge_of_every_field(api_server: ApiServer) -> None:
    cases = [wire for _, wire in one_field_at_a_time()]
    taken = check(api_server, cases)
    assert len(cases) > 4000
    assert taken > 800


@SETTINGS
@given(family=families())
def test_both_say_the_same_of_anything(api_server: ApiServer, family: list[Wire]) -> None:
    check(api_server, family)


@pytest.mark.parametrize("spec", RULE_BREAKERS, ids=json.dumps)
def test_both_refuse_what_breaks_a_rule_in_the_same_words(api_server: ApiServer, spec: Wire) -> None:
    wire = manifest(**spec)
    [problem] = validation.read(wire)[1]
    answer = api_server.ask(wire)
    assert answer.fields == {field(problem)}
    assert any(message in problem and message in answer.text for message in RULE_MESSAGES)


def test_both_name_the_list_and_the_name_that_two_of_its_items_have(api_server: ApiServer) -> None:
    sets = [
        {"name": name} | DATA[kind] for name, kind in (("a", "volume"), ("b", "volume"), ("a", "configMap"))
    ]
    wire = manifest(evaluation={"sets": sets})
    assert validation.read(wire)[1] == ["spec.evaluation.sets: must not have two items with name 'a'"]
    answer = api_server.ask(wire)
    assert answer.fields == {"spec.evaluation.sets[2]"}
    assert 'Duplicate value: {"name":"a"}' in answer.text


@pytest.mark.parametrize(("method", "field"), [("osft", "targetPatterns"), ("lora", "targetModules")])
@pytest.mark.parametrize("pattern", ["(", "a{2,1}", "(?P<n>a)(?P<n>b)", "(?<=a+)b", r"\p{L}"])
def test_only_the_models_know_what_is_no_regular_expression(
    api_server: ApiServer, pattern: str, method: str, field: str
) -> None:
    spec: Wire = {"method": method, method: {field: ["a", pattern]}}
    wire = manifest(**spec)
    [problem] = validation.read(wire)[1]
    assert problem.startswith(f"spec.{method}.{field}[1]: is not a regular expression: ")
    stored = api_server.ask(wire).stored
    assert stored is not None
    operate(stored)


def test_what_the_api_server_takes_for_an_integer_by_mistake_is_refused_by_the_operator(
    api_server: ApiServer,
) -> None:
    stored = api_server.ask(manifest(hyperparameters={"numEpochs": 2.0000000001})).stored
    assert stored is not None
    [problem] = validation.read(stored)[1]
    assert problem.startswith("spec.hyperparameters.numEpochs: must be a valid integer")
    operate(stored)


@settings(SETTINGS, max_examples=SETTINGS.max_examples // 4)
@given(wire=jobs())
def test_the_pods_of_whatever_is_taken_are_taken_too(api_server: ApiServer, wire: Wire) -> None:
    job, problems = validation.read(wire | {"metadata": {"name": "demo", "namespace": "default", "uid": "u"}})
    assert job is not None, problems
    gang = workload.attempt(job, 1, INSTALLATION, prepared={"train": "digest"})
    for made in (*workload.preparation(job, INSTALLATION), *gang):
        if made["kind"] == pod_groups.KIND:
            # Of a scheduler that is not here.
            continue
        group = "/api/v1" if made["apiVersion"] == "v1" else f"/apis/{made['apiVersion']}"
        plural = made["kind"].lower().removesuffix("y") + ("ies" if made["kind"].endswith("y") else "s")
        path = f"{group}/namespaces/default/{plural}"
        api_server.kube.request("POST", path, made, dryRun="All", fieldValidation="Strict")


@settings(SETTINGS, max_examples=SETTINGS.max_examples // 4)
@given(wire=jobs())
def test_every_plan_fits_into_the_status(planned: Namespace, wire: Wire) -> None:
    job, problems = validation.read(wire)
    assert job is not None, problems
    status = {"status": {"plan": study(job.spec).plan.to_wire()}}
    path = planned.path(FINETUNEJOBS, "demo") + "/status"
    planned.kube.request(
        "PATCH", path, status, "application/merge-patch+json", dryRun="All", fieldValidation="Strict"
    )
