"""What the chart allows whom, asked of a real API server."""

import pytest

from cluster.chart import RELEASE, Manifest, every, manifests
from cluster.helm import NAMESPACE, Tools, succeeded

LIMITED: Manifest = {"watchNamespaces": ["team-a", "team-b"]}
OPERATOR = f"system:serviceaccount:{NAMESPACE}:{RELEASE}"


@pytest.mark.parametrize("values", [{}, LIMITED])
def test_no_rule_is_a_wildcard_or_reads_secrets(values: Manifest) -> None:
    everything = manifests(NAMESPACE, **values)
    roles = every(everything, "ClusterRole") + every(everything, "Role")
    for rule in (rule for role in roles for rule in role["rules"]):
        assert set(rule) == {"apiGroups", "resources", "verbs"}
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        assert "secrets" not in rule["resources"]


def can(tools: Tools, table: str, answer: str, *who: str) -> None:
    """Hold that every question of a table, verbs and what they are about, has the same answer."""
    words = table.split()
    for verbs, what in zip(words[::2], words[1::2], strict=True):
        resource, _, subresource = what.partition("/")
        for verb in verbs.split(","):
            question = (verb, resource, f"--subresource={subresource}", *who)
            asked = tools.run("kubectl", "auth", "can-i", *question)
            assert asked.stdout.strip() == answer, f"{verb} {what}: {asked.stdout}{asked.stderr}"


# The operator

ALLOWED = """
    get,list,watch finetunejobs.finetune.dev            patch finetunejobs.finetune.dev/status
    update finetunejobs.finetune.dev/finalizers         get,list,watch,create,patch,delete jobs.batch
    get,list,create,patch,delete configmaps             get,create,patch,delete services
    get,create,patch,delete networkpolicies.networking.k8s.io
    get,list,watch pods                                 create events
"""
EVERYWHERE = "create tokenreviews.authentication.k8s.io"
FORBIDDEN = """
    create,update,patch,delete finetunejobs.finetune.dev  watch,deletecollection configmaps  list services
    create,update,patch,delete pods                       create pods/exec         get,list,watch,create secrets
    list networkpolicies.networking.k8s.io                get nodes                create serviceaccounts/token
    create,escalate,bind clusterroles.rbac.authorization.k8s.io                    impersonate users
    update,patch customresourcedefinitions.apiextensions.k8s.io
"""


@pytest.mark.parametrize(("table", "answer"), [(ALLOWED + EVERYWHERE, "yes"), (FORBIDDEN, "no")])
def test_the_operator_may_do_what_it_must_and_no_more(installed: Tools, table: str, answer: str) -> None:
    can(installed, table, answer, f"--as={OPERATOR}", "--namespace=team-a")


def test_with_named_namespaces_it_may_do_so_there_and_nothing_elsewhere(installed: Tools) -> None:
    for name in LIMITED["watchNamespaces"]:
        installed.kubectl("create", "namespace", name)
    succeeded(installed.helm("upgrade", **LIMITED))
    try:
        for name in LIMITED["watchNamespaces"]:
            can(installed, ALLOWED, "yes", f"--as={OPERATOR}", f"--namespace={name}")
            can(installed, FORBIDDEN, "no", f"--as={OPERATOR}", f"--namespace={name}")
        can(installed, ALLOWED + FORBIDDEN, "no", f"--as={OPERATOR}", "--namespace=team-c")
        can(installed, ALLOWED + FORBIDDEN, "no", f"--as={OPERATOR}", "--all-namespaces")
        can(installed, EVERYWHERE, "yes", f"--as={OPERATOR}")
    finally:
        succeeded(installed.helm("upgrade"))


def test_with_named_namespaces_no_other_is_asked_about(defaults: list[Manifest]) -> None:
    def selector(configurations: list[Manifest]) -> Manifest | None:
        [configuration] = every(configurations, "ValidatingWebhookConfiguration")
        [webhook] = configuration["webhooks"]
        found: Manifest | None = webhook.get("namespaceSelector")
        return found

    assert selector(defaults) is None
    limited = selector(manifests(NAMESPACE, **LIMITED))
    assert limited is not None
    [expression] = limited["matchExpressions"]
    assert expression == {
        "key": "kubernetes.io/metadata.name",
        "operator": "In",
        "values": LIMITED["watchNamespaces"],
    }


# Users, by Kubernetes' own roles

READ = "get,list,watch finetunejobs.finetune.dev  get finetunejobs.finetune.dev/status"
WRITE = "create,update,patch,delete,deletecollection finetunejobs.finetune.dev"
WRITE_STATUS = "update,patch finetunejobs.finetune.dev/status  update finetunejobs.finetune.dev/finalizers"


@pytest.mark.parametrize(
    ("role", "yes", "no"),
    [
        ("view", READ, f"{WRITE} {WRITE_STATUS}"),
        ("edit", f"{READ} {WRITE}", WRITE_STATUS),
        ("admin", f"{READ} {WRITE}", WRITE_STATUS),
    ],
)
def test_users_have_rights_by_their_role_and_nobody_writes_a_status(
    installed: Tools, role: str, yes: str, no: str
) -> None:
    user = f"{role}er"
    installed.kubectl("create", "rolebinding", user, f"--clusterrole={role}", f"--user={user}")
    can(installed, yes, "yes", f"--as={user}")
    can(installed, no, "no", f"--as={user}")
    can(installed, f"{yes} {no}", "no", f"--as={user}", "--namespace=default")
