"""What is done about the upload of a FineTuneJob's result in each situation."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from finetune_api import names
from finetune_api.status import Condition, Phase
from finetune_operator.lifecycle import publishing
from finetune_operator.lifecycle.reconcile import reconcile
from finetune_operator.observation.observed import Observed, Pod, Taken
from finetune_operator.status import conditions
from world import (
    INLINE,
    INSTALLATION,
    MERGED,
    MERGES,
    OUTPUT,
    PUBLISH,
    START,
    TARGET,
    World,
    merged,
    pod_spec,
    published,
    report,
)
from world import publishing as uploading

OTHER: dict[str, Any] = {
    "publish": {"huggingFace": {"repo": "me/demo", "tokenSecretRef": {"name": "hub", "key": "t"}}}
}
FIRST, LAST = publishing.FIRST_PAUSE, publishing.LAST_PAUSE


def condition(world: World, type_: str = conditions.PUBLISHED) -> Condition:
    known = conditions.find(world.status.conditions, type_)
    assert known is not None
    return known


def told(world: World) -> tuple[str, str]:
    return condition(world).status, condition(world).reason


def trained(**spec: Any) -> World:
    """A world whose job has just succeeded, and nothing else."""
    world = World(spec={"dataset": INLINE} | spec)
    world.settle()
    world.run_pods()
    world.succeed(report(step=36, output=OUTPUT))
    world.turn()
    assert world.status.phase is Phase.SUCCEEDED
    return world


def started(**spec: Any) -> World:
    """A world whose upload has been created and observed."""
    world = trained(**(PUBLISH | spec))
    world.settle()
    return world


def under_way(**spec: Any) -> World:
    """A world whose result is being uploaded."""
    world = started(**spec)
    world.run_pods()
    world.post(uploading())
    world.settle()
    return world


def failed(**spec: Any) -> World:
    """A world whose first try has failed, which is on record."""
    world = under_way(**spec)
    world.fail_single_pod(77, message="spec.publish.objectStore: no access")
    world.turn()
    return world


def uploaded(**spec: Any) -> World:
    """A world whose result is where it should be."""
    world = under_way(**spec)
    world.succeed(published())
    world.settle()
    return world


# From the end of the job to that of the upload


def test_without_it_a_finished_job_is_not_looked_at() -> None:
    world = trained()
    assert conditions.find(world.status.conditions, conditions.PUBLISHED) is None
    assert publishing.is_settled(world.subject)
    outcome = world.turn()
    assert (outcome.apply, outcome.status, outcome.requeue_after) == ((), None, None)


def test_what_is_to_be_done_is_on_record_before_anything_is_made() -> None:
    world = trained(**PUBLISH)
    outcome = world.turn()
    assert not outcome.apply
    publication = world.status.publication
    assert publication is not None
    assert (publication.target, publication.tries, publication.published) == (TARGET, 0, None)
    assert told(world) == ("Unknown", "CreatingPods")
    outcome = world.turn()
    assert [manifest["kind"] for manifest in outcome.apply] == ["ConfigMap", "NetworkPolicy", "Job"]
    assert outcome.apply[-1]["metadata"]["name"] == "demo-publish"
    world.settle()
    assert set(world.jobs) == {"demo-1", "demo-publish"}


def test_the_job_itself_stays_what_it_is_to_everybody() -> None:
    world = trained(**PUBLISH)
    before = world.status
    for step in ("begun", "made", "run", "reported", "failed"):
        if step == "run":
            world.run_pods()
        elif step == "reported":
            world.post(uploading())
        elif step == "failed":
            world.fail_single_pod(77)
        world.turn()
        status = world.status
        assert [c for c in status.conditions if c.type != conditions.PUBLISHED] == before.conditions
        assert status.model_copy(update={"conditions": before.conditions, "publication": None}) == before


def test_its_pod_has_the_result_and_the_secret_and_nothing_else() -> None:
    store = {"uri": TARGET, "credentialsSecretRef": {"name": "bucket"}}
    world = trained(publish={"objectStore": store})
    world.turn()
    config, _, job = world.turn().apply
    pod = pod_spec(job)
    [container] = pod["containers"]
    assert container["args"][0] == "publish"
    assert "limits" not in container["resources"]
    claims = [each["persistentVolumeClaim"] for each in pod["volumes"] if "persistentVolumeClaim" in each]
    assert claims == [{"claimName": "runs"}]
    [secret] = [each["secret"] for each in pod["volumes"] if "secret" in each]
    assert (secret["secretName"], "items" in secret) == ("bucket", False)
    paths = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert names.credentials_dir("publish") in paths
    assert f'"publish":{{"objectStore":{{"uri":"{TARGET}"' in config["data"][names.RUN_CONFIG_FILE]


def test_of_the_secret_of_a_hub_only_the_token_is_there() -> None:
    world = trained(**OTHER)
    world.turn()
    [secret] = [each["secret"] for each in pod_spec(world.turn().apply[-1])["volumes"] if "secret" in each]
    assert (secret["secretName"], secret["items"]) == ("hub", [{"key": "t", "path": "token"}])


def test_gangs_do_not_hear_of_it() -> None:
    plain, uploads = World(spec={"dataset": INLINE}), World(spec={"dataset": INLINE} | PUBLISH)
    for world in (plain, uploads):
        world.settle()
    assert plain.jobs["demo-1"].config == uploads.jobs["demo-1"].config


def test_it_is_mirrored() -> None:
    world = started()
    assert told(world) == ("Unknown", "PodsPending")
    world.run_pods()
    world.settle()
    assert told(world) == ("Unknown", "WaitingForReport")
    world.post(uploading())
    world.settle()
    assert told(world) == ("Unknown", "Publishing")
    assert condition(world).message == "the result is being uploaded: 3.0 GiB of 12 GiB, 25 %"


def test_success_is_one_write_and_the_end() -> None:
    world = under_way()
    world.succeed(published())
    outcome = world.turn()
    assert told(world) == ("True", "Published")
    publication = world.status.publication
    assert publication is not None
    assert publication.published is not None
    assert publication.published.target == TARGET
    assert [(event.reason, event.message) for event in outcome.events] == [
        ("Published", "the result is in s3://models/demo")
    ]
    assert publishing.is_settled(world.subject)
    world.settle()
    world.now += timedelta(days=100)
    outcome = world.turn()
    assert (outcome.delete, outcome.apply, outcome.status, outcome.requeue_after) == ((), (), None, None)
    assert set(world.jobs) == {"demo-1", "demo-publish"}, "its log may be wanted"


def test_the_commit_of_a_repository_is_told() -> None:
    world = under_way(**OTHER)
    world.succeed(published("me/demo", revision="abc"))
    world.settle()
    assert condition(world).message == "the result is in me/demo (commit abc)"


def test_an_operator_that_missed_every_word_tells_what_it_knows() -> None:
    world = under_way()
    world.succeed(None)
    world.settle()
    publication = world.status.publication
    assert publication is not None
    assert publication.published is not None
    assert (publication.published.target, publication.published.bytes) == (TARGET, OUTPUT.bytes)


def test_it_comes_after_the_merging() -> None:
    world = World(spec=MERGES | PUBLISH | {"dataset": INLINE})
    world.settle()
    world.run_pods()
    world.succeed(report(step=36, output=MERGED.model_copy(update={"merged": None})))
    world.settle()
    assert world.created[-1] == "demo-merge"
    world.run_pods()
    world.succeed(merged())
    world.settle()
    assert world.created == ["demo-1", "demo-merge", "demo-publish"]
    newest = world.observed.newest
    assert newest is not None
    assert newest.attempt == names.PUBLISHING


def test_what_failed_is_not_uploaded() -> None:
    world = World(spec={"dataset": INLINE} | PUBLISH)
    world.settle()
    world.run_pods()
    world.fail_pod(0, 65)
    world.settle()
    assert world.status.phase is Phase.FAILED
    assert world.created == ["demo-1"]
    assert conditions.find(world.status.conditions, conditions.PUBLISHED) is None
    assert publishing.is_settled(world.subject)


# Failure


def test_a_failed_try_is_on_record_with_its_cause_before_its_job_goes() -> None:
    world = under_way()
    world.fail_single_pod(77, message="spec.publish.objectStore: no access")
    outcome = world.turn()
    assert not outcome.delete
    assert told(world) == ("False", "AccessDenied")
    assert condition(world).message.endswith(
        f"spec.publish.objectStore: no access. Try 2 of 24 follows at {world.now + FIRST:%H:%M:%S} UTC."
    )
    [event] = outcome.events
    assert (event.reason, event.type) == ("PublishFailed", "Warning")
    assert event.message.endswith("spec.publish.objectStore: no access")
    assert world.status.phase is Phase.SUCCEEDED
    publication = world.status.publication
    assert publication is not None
    assert (publication.tries, publication.last_try, publication.next_try) == (
        1,
        world.now,
        world.now + FIRST,
    )


def test_it_is_counted_once_and_tried_again_when_its_time_has_come() -> None:
    world = failed()
    outcome = world.turn()
    assert (outcome.delete, outcome.status, outcome.requeue_after) == ((), None, FIRST.total_seconds())
    world.now += FIRST - timedelta(seconds=1)
    assert not world.turn().delete, "its log is wanted"
    world.now += timedelta(seconds=1)
    assert [job.name for job in world.turn().delete] == ["demo-publish"]
    assert not world.turn().apply, "it has yet to go"
    world.settle()
    assert world.created == ["demo-1", "demo-publish", "demo-publish"]
    assert told(world) == ("Unknown", "PodsPending")
    publication = world.status.publication
    assert publication is not None
    assert (publication.tries, publication.next_try) == (1, None)


def test_after_a_clock_was_set_right_the_next_try_does_not_wait_for_hours() -> None:
    world = failed()
    world.now -= timedelta(hours=5)
    world.settle()
    assert world.created.count("demo-publish") == 2


def test_pauses_double_up_to_an_hour_and_end_with_the_last_try() -> None:
    world = started()
    pauses = []
    for _ in range(publishing.MAX_TRIES):
        world.run_pods()
        world.fail_single_pod(77, message="no access")
        world.turn()
        publication = world.status.publication
        assert publication is not None
        if publication.next_try is not None:
            pauses.append(publication.next_try - world.now)
            world.now = publication.next_try
            world.settle()
    assert pauses[:7] == [timedelta(minutes=minutes) for minutes in (1, 2, 4, 8, 16, 32, 60)]
    assert set(pauses[6:]) == {LAST}
    assert len(pauses) == publishing.MAX_TRIES - 1
    assert told(world) == ("False", "AccessDenied")
    assert condition(world).message.endswith(
        "That was try 24 of 24, and the last: a change of spec.publish begins anew."
    )
    assert publishing.is_settled(world.subject)
    created = list(world.created)
    world.now += timedelta(days=100)
    world.settle()
    assert world.created == created
    world.edit(publish={"objectStore": {"uri": TARGET, "credentialsSecretRef": {"name": "right"}}})
    world.settle()
    assert len(world.created) == len(created) + 1, "with another Secret, it may go well"
    assert world.status.publication is not None
    assert world.status.publication.tries == 0


@pytest.mark.parametrize("name", ["demo-publish-x7k2p", "demo-publishx7k2p"])
def test_no_upload_starts_beside_a_pod_of_an_earlier_one(name: str) -> None:
    """Kubernetes cuts what it makes a pod's name of to 58 characters: of the longest jobs, the last dash goes."""
    world = failed()
    job, publication = world.current, world.status.publication
    assert job is not None
    assert publication is not None
    assert publication.next_try is not None
    world.jobs.pop(job.name)
    world.pods = {pod: other for pod, other in world.pods.items() if other.job_uid != job.uid}
    world.pods[name] = Pod(name, job.uid, None, running=True)
    world.now = publication.next_try
    world.settle()
    assert world.created.count("demo-publish") == 1
    del world.pods[name]
    world.settle()
    assert world.created.count("demo-publish") == 2


def test_trouble_that_its_own_job_sees_to_is_not_counted() -> None:
    world = under_way()
    world.fail_single_pod(1, message="connection reset")
    world.turn()
    assert told(world) == ("Unknown", "Retrying")
    assert "the result is about to be uploaded once more. demo-publish" in condition(world).message
    world.settle()
    world.fail_single_pod(1, message="connection reset", given_up=True)
    world.settle()
    assert told(world) == ("False", "Error")
    assert "Its logs are in demo/logs/attempt-publish on claim runs." in condition(world).message
    assert "maxRestarts" not in condition(world).message, "it is tried again all the same"


@pytest.mark.parametrize("deadline", ["startupDeadlineSeconds", "progressDeadlineSeconds"])
def test_a_pod_that_shows_nothing_fails_and_goes_at_once(deadline: str) -> None:
    world = (started if deadline.startswith("startup") else under_way)(failurePolicy={deadline: 60})
    world.now += timedelta(seconds=59)
    world.turn()
    assert condition(world).status == "Unknown"
    world.now += timedelta(seconds=2)
    world.turn()
    assert condition(world).status == "False"
    assert [job.name for job in world.turn().delete] == ["demo-publish"]
    world.collect()
    world.now += FIRST
    world.settle()
    assert world.created.count("demo-publish") == 2


def test_what_comes_to_a_good_end_after_all_is_published() -> None:
    world = started(failurePolicy={"startupDeadlineSeconds": 60})
    world.now += timedelta(seconds=61)
    world.turn(crash_after=1)
    assert condition(world).status == "False"
    world.succeed(published())
    world.settle()
    assert told(world) == ("True", "Published")


def test_a_name_that_is_taken_is_left_alone_and_named_and_looked_at_again() -> None:
    world = trained(**PUBLISH)
    world.turn()
    observed = replace(world.observed, taken=(Taken("Job", "demo-publish", fading=False),))
    outcome = reconcile(world.subject, observed, world.now, INSTALLATION)
    assert not outcome.apply
    assert outcome.status is not None
    known = conditions.find(outcome.status.conditions, conditions.PUBLISHED)
    assert known is not None
    assert (known.status, known.reason) == ("False", "NameConflict")
    assert (outcome.requeue_after, [event.reason for event in outcome.events]) == (2, ["PublishFailed"])


# The user changes their mind


def test_adding_it_to_a_job_that_was_cleaned_up_publishes_that_and_cleans_up_again() -> None:
    world = trained(ttlSecondsAfterFinished=0)
    world.settle()
    assert world.status.cleanup_time is not None
    world.edit(**PUBLISH)
    world.settle()
    assert set(world.jobs) == {"demo-publish"}
    assert world.status.cleanup_time is None
    world.run_pods()
    world.succeed(published())
    world.settle()
    assert told(world) == ("True", "Published")
    assert world.status.cleanup_time is not None
    assert (world.jobs, world.pods, world.others) == ({}, {}, {})


@pytest.mark.parametrize("before", [under_way, failed, uploaded])
def test_another_target_begins_anew_once_nothing_is_left_of_the_one_before(before: Any) -> None:
    world = before()
    world.edit(**OTHER)
    outcome = world.turn()
    assert ([job.name for job in outcome.delete], outcome.apply) == (["demo-publish"], ())
    assert not world.turn().apply
    world.settle()
    publication = world.status.publication
    assert publication is not None
    assert (publication.target, publication.tries, publication.published) == ("me/demo", 0, None)
    assert world.created.count("demo-publish") == 2
    assert told(world) == ("Unknown", "PodsPending")


def test_what_is_there_is_not_uploaded_again_because_of_another_secret() -> None:
    world = uploaded()
    world.edit(publish={"objectStore": {"uri": TARGET, "credentialsSecretRef": {"name": "rotated"}}})
    world.settle()
    assert told(world) == ("True", "Published")
    assert world.created.count("demo-publish") == 1
    assert condition(world).observed_generation == world.generation


@pytest.mark.parametrize("before", [under_way, failed, uploaded])
def test_removing_it_ends_it_and_leaves_no_word_of_it(before: Any) -> None:
    world = before()
    world.edit(publish=None)
    assert [job.name for job in world.turn().delete] == ["demo-publish"]
    world.settle()
    assert set(world.jobs) == {"demo-1"}
    assert world.status.publication is None
    assert conditions.find(world.status.conditions, conditions.PUBLISHED) is None
    assert publishing.is_settled(world.subject)


@pytest.mark.parametrize("before", [under_way, failed])
def test_a_suspended_job_uploads_nothing_until_it_goes_on(before: Any) -> None:
    world = before()
    world.edit(suspend=True)
    world.settle()
    assert set(world.jobs) == {"demo-1"}
    assert told(world) == ("Unknown", "Suspended")
    assert world.status.phase is Phase.SUCCEEDED
    world.now += timedelta(seconds=1)
    world.settle()
    assert world.created.count("demo-publish") == 1
    world.edit(suspend=False)
    world.settle()
    assert world.created.count("demo-publish") == 2
    assert told(world) == ("Unknown", "PodsPending")


def test_a_failure_is_judged_before_it_is_suspended() -> None:
    world = under_way()
    world.fail_single_pod(77, message="no access")
    world.edit(suspend=True)
    world.turn()
    assert told(world) == ("False", "AccessDenied")
    world.settle()
    assert world.status.publication is not None
    assert (world.status.publication.tries, told(world)) == (1, ("Unknown", "Suspended"))


# What else belongs to a finished job


@pytest.mark.parametrize("good", [True, False])
def test_cleaning_up_waits_until_it_is_settled(good: bool) -> None:
    world = under_way(ttlSecondsAfterFinished=60)
    world.now += timedelta(hours=1)
    world.post(uploading(2))
    world.settle()
    assert world.status.cleanup_time is None
    assert "demo-publish" in world.jobs
    if good:
        world.succeed(published())
    else:
        last = world.status.publication
        assert last is not None
        last = last.model_copy(update={"tries": publishing.MAX_TRIES - 1})
        world.status = world.status.model_copy(update={"publication": last})
        world.fail_single_pod(78)
    world.settle()
    assert condition(world).status == ("True" if good else "False")
    assert world.status.cleanup_time is not None
    assert (world.jobs, world.pods, world.others) == ({}, {}, {})


def test_its_configmap_and_its_policy_are_made_again() -> None:
    world = started()
    world.now += timedelta(minutes=1)
    needs = world.decide().needs
    assert needs is not None
    config, policy = needs.manifests
    assert policy["kind"] == "NetworkPolicy"
    assert config["metadata"]["name"] == world.jobs["demo-publish"].config


def test_one_that_somebody_deleted_is_made_again_once_its_pod_is_gone() -> None:
    world = under_way()
    world.jobs["demo-publish"] = replace(world.jobs["demo-publish"], deleting=True)
    assert not world.turn().apply
    world.settle()
    assert world.created.count("demo-publish") == 2
    assert world.status.publication is not None
    assert world.status.publication.tries == 0


def test_how_one_ends_that_was_told_to_go_is_not_counted() -> None:
    world = under_way()
    world.fail_single_pod(143)
    world.jobs["demo-publish"] = replace(world.jobs["demo-publish"], deleting=True, failed=True)
    assert not world.turn().apply
    assert condition(world).status == "Unknown"


def test_a_pod_without_its_job_is_waited_for() -> None:
    world = under_way()
    orphans = tuple(pod for pod in world.observed.pods if pod.name.startswith("demo-publish-"))
    outcome = reconcile(world.subject, Observed(pods=orphans), world.now, INSTALLATION)
    assert not outcome.apply


def test_a_restart_of_the_operator_keeps_what_was_last_known() -> None:
    world = under_way()
    world.restart_operator(away=3600)
    assert world.decide().status is None


@pytest.mark.parametrize("lived_for", range(12))
def test_a_crash_after_any_write_loses_nothing_and_doubles_nothing(lived_for: int) -> None:
    world = trained(**PUBLISH)
    last_write, crashed = world.writes + lived_for, False
    while not publishing.is_settled(world.subject):
        world.collect()
        outcome = world.decide()
        world.carry_out(outcome, crash_after=None if crashed else last_write - world.writes)
        crashed = crashed or world.writes == last_write
        upload = world.jobs.get("demo-publish")
        if upload is not None and not upload.over and not upload.deleting:
            if world.created.count("demo-publish") == 1:
                world.fail_single_pod(77)
            else:
                world.succeed(published())
        assert world.now < START + timedelta(hours=1)
        world.now += timedelta(seconds=max(1, outcome.requeue_after or 0))
    assert crashed
    assert told(world) == ("True", "Published")
    assert world.created.count("demo-publish") == 2
    assert world.status.publication is not None
    assert world.status.publication.tries == 1
    told_of = [event.reason for event in world.events]
    assert max(told_of.count("Published"), told_of.count("PublishFailed")) <= 1


def test_a_spec_that_this_operator_does_not_understand_leaves_it_as_it_is() -> None:
    world = under_way()
    world.edit(method="magic")
    outcome = world.turn()
    assert (outcome.delete, outcome.apply) == ((), ())
    assert told(world) == ("Unknown", "Publishing")
