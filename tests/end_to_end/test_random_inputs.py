"""Random and bad inputs through Cog's server: valid ones succeed, others are refused in words, the next clip is right.

`FUZZ_INPUTS=2000 script/test tests/end_to_end/test_random_inputs.py` sends 2,000 requests to each model, in a few
minutes. Without the variable it is a sample.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import time
from collections import Counter
from typing import Any

import pytest
import random_inputs
from served import Served

COUNT = int(os.environ.get("FUZZ_INPUTS", "30"))
SEED = 20261129
MODELS = {
    "animate_diff": random_inputs.ANIMATE_DIFF,
    "sd_animation": random_inputs.SD_ANIMATION,
    "zeroscope": random_inputs.ZEROSCOPE,
}
REFUSAL = re.compile(r"(Prediction failed: |Generator iteration error: )*InvalidInput: |Input validation error: ")
PYTHONS_WORDS = re.compile(r'Traceback|File "|Error: (?!HTTP)|Exception\b|<[\w.]+ object')


def send(served: Served, body: str) -> tuple[int, str]:
    """Return the status and the text of the server's answer to a request."""
    deadline = time.monotonic() + 60
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", served.server.port, timeout=600)
        connection.request("POST", "/predictions", body.encode("utf-8"), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode("utf-8")
        connection.close()
        if answer.status != 409 or time.monotonic() > deadline:  # the last prediction has just ended
            return answer.status, text
        time.sleep(0.01)


def fault_of(case: random_inputs.Case, status: int, text: str) -> str | None:
    """Return what is wrong with an answer, or None."""
    answer: Any = json.loads(text) if text.startswith("{") else text
    error = answer if isinstance(answer, str) else answer.get("error") or ""
    succeeded = isinstance(answer, dict) and answer.get("status") == "succeeded"
    if case.valid != succeeded:
        return "refused" if case.valid else "accepted"
    if succeeded:
        return None if answer["output"] else "no output"
    if status in (400, 422):
        return None if text and not PYTHONS_WORDS.search(text) else "not in words"
    if status != 200 or not REFUSAL.match(error):
        return "not in words"
    return None if not re.search(r'Traceback|File "', error) and len(error) < 3000 else "not in words"


@pytest.mark.parametrize("name", MODELS)
def test_random_inputs_succeed_or_are_refused_in_words_and_the_next_clip_is_right(
    name: str, request: pytest.FixtureRequest
) -> None:
    served: Served = request.getfixturevalue(name)
    model = MODELS[name]
    quick = json.dumps({"input": model.quick})
    expected = json.loads(send(served, quick)[1])["output"]
    before = len(served.log)
    faults, statuses = [], Counter[str]()
    for index, case in enumerate(random_inputs.cases(model, SEED, COUNT), start=1):
        status, text = send(served, case.body)
        statuses[f"{status} {'valid' if case.valid else 'invalid'}"] += 1
        if fault := fault_of(case, status, text):
            faults.append(f"{fault}: {case.body[:300]} -> {status} {text[:300]}")
        if index % 50 == 0 or index == COUNT:
            answer = json.loads(send(served, quick)[1])
            if answer.get("output") != expected:
                faults.append(f"the clip after request {index} differs")
    print(name, dict(statuses))
    assert not faults, f"{len(faults)} of {COUNT}:\n" + "\n".join(faults[:20])
    assert not [line for line in served.log[before:] if "Traceback" in line]
