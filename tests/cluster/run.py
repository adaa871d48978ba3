"""`make test-cluster`: the test on the cluster that KUBECONFIG names; where it names none, says so and is content."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
OPTIONS = ["-m", "cluster", "-o", "log_cli=true", "--log-cli-level=INFO", "--log-cli-format=%(asctime)s %(message)s"]


def main(arguments: list[str]) -> int:
    sys.path.insert(0, str(TESTS))
    from cluster.settings import why_there_is_no_cluster

    reason = why_there_is_no_cluster()
    if reason is not None:
        sys.stdout.write(f"No test on a cluster: {reason}.\n")
        return 0
    return int(pytest.main([str(TESTS / "cluster"), *OPTIONS, *arguments]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
