"""What every task asks of the cluster, from the section `cluster` of the params, in one place."""

from __future__ import annotations

from kfp import dsl, kubernetes

from unsee.params import ClusterParams

SETTINGS = "unsee-settings"
"""ConfigMap that tells the tasks where the store and MLflow are; its keys are the environment variables themselves."""
SETTINGS_KEYS = (
    "UNSEE_CACHE",
    "UNSEE_STORE_ENDPOINT",
    "UNSEE_STORE_REGION",
    "UNSEE_STORE_SECURE",
    "UNSEE_STORE_PATH_STYLE",
    "UNSEE_STORE_CA_BUNDLE",
    "MLFLOW_TRACKING_URI",
    "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_RESPONSE_CHECKSUM_VALIDATION",
)
CREDENTIALS = "unsee-object-store"
"""Secret with the store's keys; there need not be one where the service account has an identity of its own."""
CREDENTIALS_KEYS = {"accesskey": "AWS_ACCESS_KEY_ID", "secretkey": "AWS_SECRET_ACCESS_KEY"}
MODELS = "/models"
CHECKPOINTS = f"{MODELS}/.checkpoints"

_HOME = "/home/unsee"
_USER, _GROUP = 10001, 10001
_FIRST_BACKOFF, _BACKOFF_FACTOR, _LONGEST_BACKOFF = "30s", 2.0, "600s"


def placed(task: dsl.PipelineTask, cluster: ClusterParams, *, network: bool = False, cached: bool = True) -> None:
    """Give a task its image, resources, retries, time limit, settings, secrets and volumes.

    Args:
        network: it runs the denoiser, so that it gets the accelerators, where there are some, and waits in the queue.
        cached: Kubeflow may reuse the result of an equal task.
    """
    on_gpu = network and cluster.gpu_count > 0
    task.set_container_image((cluster.gpu_image or cluster.image) if on_gpu else cluster.image)
    task.set_memory_request(cluster.memory).set_memory_limit(cluster.memory)
    task.set_cpu_request(cluster.cpu if network else "500m")
    task.set_caching_options(cached)
    if cluster.retries:
        task.set_retry(
            cluster.retries,
            backoff_duration=_FIRST_BACKOFF,
            backoff_factor=_BACKOFF_FACTOR,
            backoff_max_duration=_LONGEST_BACKOFF,
        )
    kubernetes.set_timeout(task, round(cluster.timeout_hours * 3600))
    kubernetes.set_security_context(task, run_as_user=_USER, run_as_group=_GROUP, run_as_non_root=True)
    _settings(task)
    if cluster.models_claim is not None:
        kubernetes.mount_pvc(task, pvc_name=cluster.models_claim, mount_path=MODELS)
        task.set_env_variable("UNSEE_CHECKPOINTS", CHECKPOINTS)
    if on_gpu:
        task.set_accelerator_type(cluster.gpu_resource).set_accelerator_limit(cluster.gpu_count)
    if network:
        for toleration in cluster.tolerations:
            kubernetes.add_toleration(task, **toleration.model_dump(exclude_none=True))
        for label, value in cluster.node_selector.items():
            kubernetes.add_node_selector(task, label, value)
        if cluster.queue is not None:
            kubernetes.add_pod_label(task, "kueue.x-k8s.io/queue-name", cluster.queue)


def _settings(task: dsl.PipelineTask) -> None:
    names = {key: key for key in SETTINGS_KEYS}
    kubernetes.use_config_map_as_env(task, SETTINGS, config_map_key_to_env=names, optional=True)
    kubernetes.use_secret_as_env(task, CREDENTIALS, secret_key_to_env=CREDENTIALS_KEYS, optional=True)
    # The run's id, so that all its tasks log to one run; as a parameter it would make every run a cache miss.
    kubernetes.use_field_path_as_env(task, env_name="UNSEE_AUDIT", field_path="metadata.labels['pipeline/runid']")
    for volume, path in (("home", _HOME), ("scratch", "/tmp")):  # noqa: S108  (a volume of the pod's own)
        kubernetes.empty_dir_mount(task, volume_name=volume, mount_path=path)
    task.set_env_variable("HOME", _HOME)
