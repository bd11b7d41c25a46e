"""Checks of module 06: vLLM under limits of MPS: its answers, its SMs, and its message when it cannot start."""

import json
from collections.abc import Callable
from typing import cast

import pytest

from checks.live import LiveStack
from checks.mps import CLIENTS, MEMORY, PERCENTAGE, Daemon
from checks.vllm_server import (
    UTILIZATION,
    Job,
    caller_job,
    command,
    limit_variables,
    python,
    ready_pod,
    server_like_job,
    template,
)
from gpus.mps import granted_multiprocessors
from gpus.quantity import quantity_mib
from images.loadgen.server import cause
from machine.gpus import gpu_model

pytestmark = pytest.mark.gpu

PROMPT_TOKENS, OUTPUT_TOKENS = 32, 16
FAIL_SECONDS = 300
# Enough for a client's context, and for no model.
TOO_LITTLE = "1024M"
COUNT = "import json, torch; print(json.dumps(torch.cuda.get_device_properties(0).multi_processor_count))"
# Size, and what is in use: the server's own semaphores lie there.
SHARED_MEMORY = (
    "import os; s = os.statvfs('/dev/shm'); print([n * s.f_frsize for n in (s.f_blocks, s.f_blocks - s.f_bfree)])"
)


def run_in_server(stack: LiveStack, program: str) -> object:
    """Output of a line of Python in the server's container, with the server's own environment."""
    pod = ready_pod(stack)["metadata"]["name"]
    output = stack.kubectl("exec", "-n", CLIENTS, pod, "-c", "server", "--", python(stack), "-c", program)
    return json.loads(output.splitlines()[-1])


def test_service_answers_with_the_tokens_that_were_asked_for(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if the reply's structure, the count of its tokens or `usage` is another one, whole or streamed."""
    ready_pod(stack)
    name, url = stack.settings.vllm_model_name, f"http://{stack.outputs['vllm']['service']}"
    tokens = ("--prompt-tokens", str(PROMPT_TOKENS), "--output-tokens", str(OUTPUT_TOKENS))
    with Job(stack, caller_job(stack, "complete", "--url", url, "--model", name, *tokens)) as job:
        whole, streamed = list(job.lines())
    reply = whole["reply"]
    assert whole["status"] == 200, reply
    assert (reply["object"], reply["model"]) == ("text_completion", name)
    (choice,) = reply["choices"]
    assert choice["finish_reason"] == "length"
    assert len(choice["token_ids"]) == OUTPUT_TOKENS
    if dummy := stack.settings.vllm_dummy:
        assert all(0 <= token < dummy["vocab_size"] for token in choice["token_ids"])
    usage = reply["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (PROMPT_TOKENS, OUTPUT_TOKENS)
    assert usage["total_tokens"] == PROMPT_TOKENS + OUTPUT_TOKENS
    assert streamed["streamed"]["failure"] is None
    assert streamed["streamed"]["tokens"] == OUTPUT_TOKENS
    weights = "random weights, so what it wrote means nothing" if stack.settings.vllm_dummy else "real weights"
    observed(
        f"{name} ({weights}): {PROMPT_TOKENS} tokens in, {OUTPUT_TOKENS} out, whole and streamed through the Service"
    )


def test_model_without_weights_says_so_in_its_name_and_in_the_outputs(stack: LiveStack) -> None:
    """Fails if neither its name nor the output says that its weights are random."""
    told = stack.outputs["vllm"]["weights"]
    assert told == ("dummy" if stack.settings.vllm_dummy else "real")
    if stack.settings.vllm_dummy and stack.settings.vllm.served_model_name is None:
        assert stack.settings.vllm_model_name.startswith("dummy-")


def test_server_has_the_multiprocessors_of_its_percentage(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if a process in its container, with its environment, has other SMs than the rule says. vLLM's own process
    is asked in module 06.5.
    """
    vllm, model = stack.settings.vllm, gpu_model(stack.settings)
    count = run_in_server(stack, COUNT)
    if model is None:
        pytest.skip(f"the rule is not known for this GPU; its process has {count} multiprocessors")
    granted = granted_multiprocessors(model, vllm.active_thread_percentage)
    assert count == granted
    observed(
        f"a process in the server's container has {count} of {model.multiprocessors} SMs at "
        f"{vllm.active_thread_percentage} %"
    )


def test_server_is_a_client_of_mps_with_the_limits_of_the_stack(
    stack: LiveStack, observed: Callable[[str], None]
) -> None:
    """Fails if its variables are others, or the daemon has fewer contexts than there are clients."""
    ready_pod(stack)
    spec = template(stack)
    env = {entry["name"]: entry.get("value") for entry in spec["containers"][0]["env"]}
    assert env[PERCENTAGE] == str(stack.settings.vllm.active_thread_percentage)
    assert env[MEMORY] == f"0={quantity_mib(stack.settings.vllm_limit)}M"
    clients = Daemon(stack).clients()
    # Its own context beside those of module 04's two clients.
    assert clients >= 3
    observed(f"{env[PERCENTAGE]} %, {env[MEMORY]}; the daemon serves {clients} contexts")


def test_no_volume_hides_what_the_driver_mounts(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if a volume lies over `/dev/shm` or the pipe, or `/dev/shm` is smaller than `vllm.sharedMemory`."""
    spec = template(stack)
    mounts = {mount["mountPath"]: mount["name"] for mount in spec["containers"][0]["volumeMounts"]}
    of_mps = {"/dev/shm", "/tmp/nvidia-mps"}
    by_claim = stack.settings.mps.mode == "claim"
    hidden = [path for path in mounts if path in of_mps or any(place.startswith(f"{path}/") for place in of_mps)]
    assert sorted(hidden) == ([] if by_claim else sorted(of_mps))
    wanted = quantity_mib(stack.settings.vllm.shared_memory)
    size, used = cast(list[int], run_in_server(stack, SHARED_MEMORY))
    assert size >> 20 >= wanted, f"/dev/shm has {size >> 20} MiB, vllm.sharedMemory is {wanted}"
    whose = "driver" if by_claim else "pod"
    observed(f"/dev/shm is the {whose}'s, {size >> 20} MiB, of which {used >> 10} KiB are in use")


@pytest.mark.parametrize(
    ("changed", "memory", "words"),
    [
        ({}, TOO_LITTLE, "less than desired GPU memory utilization"),
        ({UTILIZATION: "0.0001"}, TOO_LITTLE, "out of memory"),
        ({"/models/": "nothing"}, None, "LocalEntryNotFoundError: Cannot find"),
    ],
    ids=["limit-below-the-utilization", "model-larger-than-the-limit", "no-such-model"],
)
def test_server_that_cannot_start_says_why(
    stack: LiveStack, changed: dict[str, str], memory: str | None, words: str, observed: Callable[[str], None]
) -> None:
    """Fails if a limit below its utilization, a model larger than the limit, or a model that is not there is not named
    as the cause.
    """
    start = command(stack)
    for prefix, value in changed.items():
        start = [f"{prefix}{value}" if word.startswith(prefix) else word for word in start]
    if start == command(stack) and changed:
        pytest.skip(f"vLLM of this stack is not started with {', '.join(changed)}")
    with Job(stack, server_like_job(stack, start, limit_variables(memory=memory), FAIL_SECONDS)) as job:
        ended = job.ended(FAIL_SECONDS)
        log = job.log()
    assert ended["exitCode"] != 0
    why = cause(log)
    assert words in why
    # What `kubectl describe` shows without the log.
    assert ended.get("message", "").strip()
    observed(why)
