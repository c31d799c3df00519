"""Reasons of Kubernetes' own, by which the conditions tell what keeps pods from running."""

from finetune_api.reasons.entry import Chapter, Outlook, Reason

_DEADLINE = (
    "After spec.failurePolicy.startupDeadlineSeconds the attempt is given up, and counted as a restart."
)


def _reason(word: str, means: str, remedy: str = "", outlook: Outlook = Outlook.ACT) -> Reason:
    return Reason(word, means, outlook, remedy, _DEADLINE)


CHAPTER = Chapter(
    "What keeps pods from running",
    "In the conditions while the phase is Starting or Preparing, with the words of the scheduler or the "
    "kubelet; and in the events of pods.",
    (
        _reason(
            "Unschedulable",
            "No node has room for a pod: the message counts the nodes, and for what reason each is out of question.",
            "Free GPUs or add nodes; or ask for less (spec.resources), or less particular (spec.scheduling: "
            "nodeSelector, tolerations). A taint or selector that no node has never passes. While the gang is "
            "half scheduled, it holds GPUs for nothing: a queue (scheduling.queueName) prevents that.",
        ),
        _reason(
            "FailedScheduling",
            "The scheduler found no node for a pod; its words tell why.",
            "As for Unschedulable.",
        ),
        _reason(
            "SchedulingGated",
            "Something holds a pod back from the scheduler, by a scheduling gate.",
            "See who sets the gates in the pod's spec.schedulingGates, and what it waits for.",
        ),
        _reason(
            "SchedulerError",
            "The scheduler itself met an error with this pod.",
            "Have the scheduler's log looked at; is the scheduler of spec.scheduling.schedulerName running?",
        ),
        _reason(
            "ContainerCreating",
            "Images, volumes or the network of the pod are being set up.",
            "",
            Outlook.PASSES,
        ),
        _reason("PodInitializing", "What has to run before the container is running.", "", Outlook.PASSES),
        _reason(
            "Waiting",
            "A container waits, and the kubelet gives no reason.",
            "`kubectl describe pod` shows the pod's events.",
            Outlook.PASSES,
        ),
        _reason(
            "ImagePullBackOff",
            "The image cannot be pulled, and the kubelet tries again ever more rarely.",
            "Is the image's name right (spec.trainerImage, or the operator's default), can the node reach the "
            "registry, and does the namespace have the pull secret?",
        ),
        _reason("ErrImagePull", "The image could not be pulled.", "As for ImagePullBackOff."),
        _reason(
            "ErrImageNeverPull",
            "The image is not on the node, and its pull policy is Never.",
            "Load the image onto the nodes. The operator sets no pull policy: look after what changes the pods.",
        ),
        _reason(
            "InvalidImageName",
            "The image's name is no name of an image.",
            "Correct the name that the message has.",
        ),
        _reason(
            "CreateContainerConfigError",
            "A ConfigMap or Secret that the container needs is missing, or has no such key.",
            "Create the Secret that the message names, with that key; the pod goes on by itself then.",
        ),
        _reason(
            "CreateContainerError",
            "The container runtime refuses to make the container.",
            "The message has its words; look after the node's runtime and GPU drivers.",
        ),
        _reason(
            "RunContainerError",
            "The container was made and could not be started.",
            "The message has the runtime's words; look after the node's runtime and GPU drivers.",
        ),
        _reason(
            "CrashLoopBackOff",
            "The container ends again and again soon after its start. The job's own pods are never started "
            "again, so this is one that something else has added, such as a sidecar.",
            "Look at that container's log: `kubectl logs POD -c CONTAINER`.",
        ),
        _reason(
            "FailedMount",
            "A volume cannot be mounted: a claim, a Secret or a ConfigMap.",
            "The message names it. Does it exist in this namespace, and may a claim be mounted on several nodes "
            "(ReadWriteMany) where the gang has several?",
        ),
        _reason(
            "FailedAttachVolume",
            "A volume cannot be attached to the node: often it still is to another one.",
            "Where it lasts: which pod holds the claim, and does its access mode allow several nodes?",
        ),
        _reason(
            "FailedCreatePodSandBox",
            "The node cannot set up the pod's network.",
            "Have the node's network plugin looked at.",
        ),
        _reason(
            "FailedCreate",
            "The Job controller may not create pods: a ResourceQuota, a LimitRange or an admission policy.",
            "Its words name the quota or policy: have it changed, or ask for less (spec.resources).",
        ),
        _reason(
            "ProvisioningFailed",
            "The storage class cannot make a volume for a claim.",
            "The claim's events have the words of the storage's driver: `kubectl describe pvc`.",
        ),
        _reason(
            "NotTriggerScaleUp",
            "The cluster autoscaler has no group of nodes that would take the pod.",
            "Its words tell why: limits of the groups, selectors, taints.",
        ),
        _reason(
            "TriggeredScaleUp",
            "The cluster autoscaler is adding a node for the pod.",
            "",
            Outlook.PASSES,
        ),
        _reason(
            "Unhealthy",
            "A probe of a container fails. The job's own containers have none.",
            "Look at what added that container to the pod.",
        ),
    ),
)
