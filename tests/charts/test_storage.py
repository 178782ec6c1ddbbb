"""Volumes: local SSD, memory, buckets, folders of the host."""

import pytest

from tests.helpers.helm import RenderError, engine_container, env, nest, pod, render


def volumes(values):
    return {v["name"]: v for v in pod(render(values))["spec"]["volumes"]}


def mounts(values):
    return {m["name"]: m for m in engine_container(render(values))["volumeMounts"]}


def test_local_ssd_ends_with_the_pod_unless_a_folder_of_the_host_backs_it():
    assert volumes({})["ssd"]["emptyDir"] == {}
    values = {"volumes": {"ssdHostPath": "/mnt/disks/ssd", "ssdMountPath": "/scratch/"}}
    assert volumes(values)["ssd"]["hostPath"] == {
        "path": "/mnt/disks/ssd",
        "type": "DirectoryOrCreate",
    }
    assert mounts(values)["ssd"]["mountPath"] == "/scratch/"
    assert env(render(values))["HF_HOME"] == "/scratch/huggingface"
    assert env(render(values))["VLLM_CACHE_ROOT"] == "/scratch/cache/vllm"


def test_shared_memory():
    assert volumes(nest("volumes.shmSize", "1Gi"))["shm"]["emptyDir"] == {
        "medium": "Memory",
        "sizeLimit": "1Gi",
    }
    assert mounts({})["shm"]["mountPath"] == "/dev/shm"


def test_buckets():
    values = {
        "volumes": {
            "gcsMounts": [
                {"bucketName": "my.bucket_1"},
                {
                    "bucketName": "b-2",
                    "mountPath": "/weights",
                    "onlyDir": "models/r1",
                    "readOnly": True,
                },
            ],
            "gcsMountOptions": ["implicit-dirs", "read_ahead_kb=1024"],
        }
    }
    found = volumes(values)
    assert found["gcs-0"]["csi"] == {
        "driver": "gcsfuse.csi.storage.gke.io",
        "readOnly": False,
        "volumeAttributes": {
            "bucketName": "my.bucket_1",
            "mountOptions": "implicit-dirs,read_ahead_kb=1024",
            "skipCSIBucketAccessCheck": "true",
            "gcsfuseMetadataPrefetchOnMount": "true",
        },
    }
    assert found["gcs-1"]["csi"]["readOnly"] is True
    options = found["gcs-1"]["csi"]["volumeAttributes"]["mountOptions"]
    assert options == "implicit-dirs,read_ahead_kb=1024,only-dir=models/r1"
    assert mounts(values)["gcs-0"] == {"name": "gcs-0", "mountPath": "/gcs", "readOnly": False}
    assert mounts(values)["gcs-1"] == {"name": "gcs-1", "mountPath": "/weights", "readOnly": True}
    assert pod(render(values))["metadata"]["annotations"].items() >= {
        ("gke-gcsfuse/volumes", "true"),
        ("gke-gcsfuse/cpu-limit", "0"),
        ("gke-gcsfuse/memory-limit", "0"),
        ("gke-gcsfuse/ephemeral-storage-limit", "0"),
    }


def test_pods_without_buckets_ask_for_no_fuse_sidecar():
    assert not [k for k in pod(render())["metadata"]["annotations"] if k.startswith("gke-gcsfuse")]


def test_mount_options_may_be_none():
    values = {"volumes": {"gcsMounts": [{"bucketName": "b-1"}], "gcsMountOptions": []}}
    assert "mountOptions" not in volumes(values)["gcs-0"]["csi"]["volumeAttributes"]


def test_folders_of_the_host_are_read_only_unless_said_otherwise():
    values = {
        "volumes": {
            "hostMounts": [
                {"name": "engine", "hostPath": "/opt/vllm", "mountPath": "/opt/vllm"},
                {"name": "ssd", "hostPath": "/a", "mountPath": "/b", "readOnly": False},
            ]
        }
    }
    assert volumes(values)["host-engine"]["hostPath"] == {"path": "/opt/vllm", "type": "Directory"}
    assert mounts(values)["host-engine"]["readOnly"] is True
    assert mounts(values)["host-ssd"]["readOnly"] is False


def test_weights_on_an_existing_claim():
    claim = {"persistentVolumeClaim": {"claimName": "r1", "readOnly": True}}
    weights = {"name": "weights", "mountPath": "/weights", "volume": claim}
    scratch = {"name": "cache", "mountPath": "/c", "subPath": "a/b", "readOnly": False}
    values = {
        "volumes": {"extra": [weights, {**scratch, "volume": {"emptyDir": {}}}]},
        "model": {"path": "/weights/deepseek-r1"},
    }
    assert volumes(values)["extra-weights"] == {"name": "extra-weights", **claim}
    assert mounts(values)["extra-weights"] == {
        "name": "extra-weights",
        "mountPath": "/weights",
        "readOnly": True,
    }
    assert volumes(values)["extra-cache"]["emptyDir"] == {}
    assert mounts(values)["extra-cache"] == {
        "name": "extra-cache",
        "mountPath": "/c",
        "subPath": "a/b",
        "readOnly": False,
    }
    assert env(render(values))["MANYHOST_MODEL_PATH"] == "/weights/deepseek-r1"


CLAIM = {"persistentVolumeClaim": {"claimName": "r1"}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"extra": [{"name": "a", "mountPath": "/ssd", "volume": CLAIM}]},
            "already the place of volumes.ssd",
        ),
        (
            {"extra": [{"name": "a", "mountPath": f"/{i}", "volume": CLAIM} for i in "xy"]},
            r"extra\[1\].name: a stands twice",
        ),
        ({"extra": [{"name": "a", "mountPath": "/x"}]}, "volume"),
        ({"extra": [{"name": "a", "mountPath": "/x", "volume": {}}]}, "volume"),
        ({"extra": [{"name": "a", "mountPath": "/x", "volume": {**CLAIM, "emptyDir": {}}}]}, "volume"),
        ({"extra": [{"name": "a", "mountPath": "/x", "volume": {"persistentVolumeClaim": "r1"}}]}, "volume"),
        ({"gcsMounts": [{"bucketName": ""}]}, r"gcsMounts\[0\].bucketName: no bucket is named"),
        ({"gcsMounts": [{"mountPath": "/x"}]}, r"gcsMounts\[0\].bucketName: no bucket is named"),
        ({"gcsMounts": [{"bucketName": None}]}, "no bucket is named"),
        ({"gcsMounts": [{"bucketName": "gs://b"}]}, "without gs://"),
        ({"gcsMounts": [{"bucketName": "bucket/folder"}]}, "onlyDir"),
        ({"gcsMounts": [{"bucketName": "a-1"}, {"bucketName": "b-1"}]}, "/gcs is already"),
        ({"ssdMountPath": "/opt/manyhost/"}, "already the place of the start scripts"),
        ({"ssdMountPath": "/dev/shm"}, "already the place of volumes.shmSize"),
        (
            {"hostMounts": [{"name": "a", "hostPath": "/a", "mountPath": "/ssd/"}]},
            "already the place of volumes.ssdMountPath",
        ),
        (
            {"hostMounts": [{"name": "a", "hostPath": "/a", "mountPath": f"/{i}"} for i in "xy"]},
            "a stands twice",
        ),
        ({"gcsMountOptions": ["log-file=/x"]}, "the CSI driver refuses log-file"),
        ({"gcsMountOptions": ["only-dir=x"]}, "use onlyDir"),
        ({"gcsMountOptions": ["a,b"]}, "gcsMountOptions"),
        ({"gcsMounts": [{"bucketName": "b-1", "mountpath": "/x"}]}, "mountpath"),
        ({"ssdMountPath": "ssd"}, "ssdMountPath"),
        ({"shmSize": "lots"}, "shmSize"),
    ],
)
def test_volumes_that_cannot_be(values, message):
    with pytest.raises(RenderError, match=message):
        render({"volumes": values})
