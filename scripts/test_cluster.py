"""Tests of the launch files, by the validators of their tools."""

import subprocess
import sys
import unittest
from pathlib import Path

import kubernetes_validate
import yaml

FOLDER = Path(__file__).resolve().parent / "cluster"
# The oldest with `backoffLimitPerIndex` switched on, and the newest that the validator knows.
KUBERNETES = ("1.29", "1.37")


def documents(name):
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def validate(document):
    for version in KUBERNETES:
        kubernetes_validate.validate(document, version, strict=True)


def check(tool, *arguments):
    """Runs a program of this Python environment."""
    done = subprocess.run([Path(sys.executable).parent / tool, *arguments], capture_output=True, text=True)
    return done.stdout + done.stderr


def environment(pod):
    return {variable["name"]: variable.get("value") for variable in pod["containers"][0].get("env", [])}


class ClusterTest(unittest.TestCase):
    def test_shell_scripts(self):
        scripts = [*FOLDER.glob("*.sbatch"), FOLDER / "test-slurm"]
        self.assertEqual(len(scripts), 3)
        self.assertEqual(check("shellcheck", *scripts), "")

    def test_container_file(self):
        self.assertEqual(check("hadolint", FOLDER / "Dockerfile"), "")

    def test_recording_jobs(self):
        record, merge = documents("record-job.yaml")
        validate(record)
        validate(merge)
        spec = record["spec"]
        # Kubernetes does not tell a pod how many there are.
        completions = environment(spec["template"]["spec"])["JOB_COMPLETIONS"]
        self.assertEqual(completions, str(spec["completions"]))
        self.assertRaises(kubernetes_validate.ValidationError, validate, {**record, "spec": {**spec, "completion": 1}})

    def test_training_job(self):
        (job,) = documents("train-pytorchjob.yaml")
        self.assertEqual((job["apiVersion"], job["kind"]), ("kubeflow.org/v1", "PyTorchJob"))
        replicas = job["spec"]["pytorchReplicaSpecs"]
        self.assertEqual(list(replicas), ["Master", "Worker"])
        for replica in replicas.values():
            # The pods are Kubernetes' own; the operator's fields around them are not in its schemas.
            pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}}
            validate({**pod, "template": replica["template"]})
            (container,) = replica["template"]["spec"]["containers"]
            self.assertEqual(container["name"], "pytorch")
            volumes = {volume["name"] for volume in replica["template"]["spec"]["volumes"]}
            self.assertEqual({mount["name"] for mount in container["volumeMounts"]}, volumes)


if __name__ == "__main__":
    unittest.main()
