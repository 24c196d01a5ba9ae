"""On a Ray cluster the same documents come out, also where a node dies in the middle of the work."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="no Ray for this Python")

PROGRAM = """
import sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from datamodules.corpus.engine import Engine
from datamodules.corpus.pipeline import Pipeline

def digest(engine, cache):
    pipeline = Pipeline(sys.argv[1], engine=engine, shard_bytes=100_000)
    return pipeline.prepare(Path(sys.argv[2], cache)).manifest["digest"]

print("DIGEST", digest(Engine(workers=1), "local"), flush=True)
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
node = cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False)
print("DIGEST", digest(Engine("ray"), "whole"), flush=True)
def kill():
    while not list(Path(sys.argv[2], "maimed").glob("work/sign-*/*")):
        time.sleep(0.01)
    cluster.remove_node(node, allow_graceful=False)
    print("KILLED", flush=True)
threading.Thread(target=kill, daemon=True).start()
print("DIGEST", digest(Engine("ray"), "maimed"), flush=True)
"""


@pytest.mark.slow
def test_a_cluster_gives_the_same_documents_and_survives_the_death_of_a_node(tmp_path: Path) -> None:
    source = tmp_path / "texts.jsonl"
    words = ["lorem", "ipsum", "dolor", "sit", "amet", "elit", "sed"]
    texts = (" ".join(words[(n * k * k + k) % 7] + str(n * k % 97) for k in range(200)) for n in range(9000))
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(source), str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    told = [line.split()[:2] for line in done.stdout.splitlines() if line.startswith(("DIGEST", "KILLED"))]
    assert [line[0] for line in told] == ["DIGEST", "DIGEST", "KILLED", "DIGEST"], done.stderr[-2000:]
    assert len({line[1] for line in told if line[0] == "DIGEST"}) == 1
