"""The manifests as kubectl's own kustomize renders them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from manifests.objects import Object, load

MANIFESTS = Path(__file__).parents[2] / "manifests"
OVERLAYS = sorted(folder.name for folder in (MANIFESTS / "overlays").iterdir() if folder.is_dir())
# Components that no overlay uses, or uses in one combination only, on top of the base or, if named so, of an overlay.
MIXTURES: dict[str, tuple[str, ...]] = {
    "prod+no-trainer": ("no-trainer",),
    "base": (),
    "base+minio": ("minio",),
    "base+external-s3": ("external-s3",),
    "base+gpu-nvidia+kueue": ("gpu-nvidia", "kueue"),
    "base+no-trainer": ("no-trainer",),
    "base+external-s3+no-trainer": ("external-s3", "no-trainer"),
    "base+shared-namespace": ("shared-namespace",),
}
RENDERINGS = (*OVERLAYS, *MIXTURES)


def copy_manifests(into: Path) -> Path:
    """A copy with what the user supplies filled in, so that every overlay renders."""
    copied = Path(shutil.copytree(MANIFESTS, into / "manifests"))
    for example in copied.rglob("*.env.example"):
        shutil.copyfile(example, example.with_suffix(""))
    for name, components in MIXTURES.items():
        folder = copied / "overlays" / f"mixture-{name}"
        folder.mkdir()
        below = name.partition("+")[0]
        lines = [
            f"resources: [{'../../base' if below == 'base' else f'../{below}'}]",
            "components:",
            *(f"  - ../../components/{each}" for each in components),
        ]
        (folder / "kustomization.yaml").write_text("\n".join(lines if components else lines[:1]))
    return copied


def folder_of(copied: Path, name: str) -> Path:
    return copied / "overlays" / (f"mixture-{name}" if name in MIXTURES else name)


def render(folder: Path) -> list[Object]:
    """Raises:
    RuntimeError: kustomize failed, or warned.
    """
    kubectl = Path(sys.executable).with_name("kubectl")
    command = [str(kubectl) if kubectl.exists() else "kubectl", "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode or done.stderr:
        raise RuntimeError(f"{folder}: {done.stderr}")
    return load(done.stdout)
