"""Every name that two parts of the system must spell alike."""

GROUP = "finetune.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "FineTuneJob"
PLURAL = "finetunejobs"
SINGULAR = "finetunejob"
SHORT_NAMES = ("ftj",)
CRD_NAME = f"{PLURAL}.{GROUP}"

# Labels that every object of a job carries. The job's name is bounded (see spec.MAX_NAME_LENGTH) so that it fits.
LABEL_JOB = f"{GROUP}/job"
LABEL_ATTEMPT = f"{GROUP}/attempt"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGED_BY = "finetune-operator"

# Attempts count from 1. What comes before them, the preparation of the data, and what comes after them, the merging of
# the adapter and the upload of the result, stand in Reports as:
PREPARATION = 0
MERGING = -1
PUBLISHING = -2
_JOB_SUFFIXES = {PREPARATION: "prepare", MERGING: "merge", PUBLISHING: "publish"}
# Labels begin with a letter or a digit.
_LABELS = {number: _JOB_SUFFIXES[number] for number in (MERGING, PUBLISHING)}

# The container that trains; its termination message is the authority on how an attempt ended.
TRAINER_CONTAINER = "trainer"

# Rendezvous: pod 0's torchrun listens here.
MASTER_PORT = 29500
ENV_ATTEMPT = "FINETUNE_ATTEMPT"
ENV_POD_NAME = "FINETUNE_POD_NAME"
# Where a trainer without a kubelet leaves its termination message.
ENV_TERMINATION_LOG = "FINETUNE_TERMINATION_LOG"

# Inside a training pod.
RUN_CONFIG_DIR = "/etc/finetune"
RUN_CONFIG_FILE = "run.json"
REPORT_CA_FILE = "ca.crt"
TOKEN_AUDIENCE = GROUP
TOKEN_DIR = f"/var/run/secrets/{GROUP}"
TOKEN_FILE = "token"
MODEL_MOUNT = "/volumes/model"
DATA_MOUNT = "/volumes/data"
STORAGE_MOUNT = "/volumes/storage"
CREDENTIALS_DIR = "/var/run/credentials"
# What those of the upload are called beside those of the inputs, which have the inputs' names.
PUBLISH_CREDENTIALS = "publish"
TERMINATION_LOG = "/dev/termination-log"

# Under a job's directory on its storage claim. Users find these in status, so they are part of the contract.
OUTPUT_DIR = "output"
MERGED_DIR = "merged"
CHECKPOINTS_DIR = "checkpoints"
RESUME_DIR = "resume"
LOGS_DIR = "logs"
METRICS_FILE = "metrics.jsonl"
EVALUATIONS_FILE = "evaluations.jsonl"
INPUTS_FILE = "inputs.json"
MANIFEST_FILE = "finetunejob.yaml"
MODEL_CARD_FILE = "README.md"
LOSS_PLOT_FILE = "loss.png"
REPORT_FILE = "report.json"
TENSORBOARD_DIR = "tensorboard"
RUN_IDENTITY_FILE = "run.json"
# What a directory holds from the moment on when it is complete.
COMPLETE_FILE = "manifest.json"
# Of the directories of full states, and then the number of the epoch.
FULL_STATE_PREFIX = "full-state-epoch-"
# Beside the directories of the jobs: what was prepared for one serves the others. No job can have a name like this.
PREPARED_DATA_DIR = ".prepared-data"
DECOMPOSITIONS_DIR = ".decompositions"
DOWNLOADS_DIR = ".downloads"


# A model's directory has at least one of these.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")


def data_mount(name: str) -> str:
    """Where the volume of a data set (train, validation, or a set's name) appears inside a pod."""
    return f"{DATA_MOUNT}/{name}"


def credentials_dir(name: str) -> str:
    """Where the Secret of an input (model, or a data set's name), or of the upload (publish), appears inside a pod."""
    return f"{CREDENTIALS_DIR}/{name}"


def report_path(namespace: str, name: str) -> str:
    """The path, on the operator's report endpoint, that takes the Reports of one FineTuneJob."""
    return f"/v1/namespaces/{namespace}/{PLURAL}/{name}/report"


def attempt_label(attempt: int) -> str:
    """What the label LABEL_ATTEMPT says of an attempt, or of a step that is none."""
    return _LABELS.get(attempt, str(attempt))


def labelled_attempt(label: str) -> int | None:
    """What a label LABEL_ATTEMPT speaks of; None for one that `attempt_label` never makes."""
    named = next((number for number, known in _LABELS.items() if known == label), None)
    if named is not None:
        return named
    return int(label) if label.isdecimal() else None


def attempt_logs(attempt: int) -> str:
    """Where, under a job's directory, lies what the pods of an attempt, or of a step that is none, printed."""
    return f"{LOGS_DIR}/attempt-{attempt_label(attempt)}"


def node_log(node: int | str) -> str:
    """The file in there of one of its nodes."""
    return f"node-{node}.log"


def attempt_job_name(name: str, attempt: int) -> str:
    """The batch/v1 Job of one attempt, or of a step that is none."""
    return f"{name}-{_JOB_SUFFIXES.get(attempt, attempt)}"


def service_name(name: str) -> str:
    """The headless Service by which the pods of every attempt find pod 0."""
    return f"{name}-gang"


def pod_group_name(name: str) -> str:
    """The PodGroup by which a scheduler that knows gangs starts all pods of an attempt, or none."""
    return f"{name}-gang"


def run_config_name(name: str, digest: str) -> str:
    """The immutable ConfigMap that holds a RunConfig, named by its content."""
    return f"{name}-run-{digest[:10]}"


def network_policy_name(name: str) -> str:
    """The NetworkPolicy that keeps strangers from the rendezvous port."""
    return f"{name}-gang"


def master_address(name: str, attempt: int) -> str:
    """The host name of pod 0 of an attempt, as the gang's headless Service publishes it."""
    return f"{attempt_job_name(name, attempt)}-0.{service_name(name)}"
