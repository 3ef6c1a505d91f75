"""The list of predictions: order, pages, and their stability while predictions are added."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import replicate
from api_server import TOKEN, ApiServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Run a server with 250 predictions, of which one runs and the others are queued."""
    directory = tmp_path_factory.mktemp("list")
    with ApiServer(directory, models=["text"]) as running:
        prediction_id = running.create("text", hold=str(directory / "go"))["id"]
        for number in range(249):
            running.create("text", text=str(number))
        yield running
        Path(directory / "go").touch()
        running.wait_for(prediction_id)


def test_a_page_has_100_predictions_newest_first_and_next_leads_to_all(server: ApiServer) -> None:
    pages, url = [], "/predictions"
    while url:
        page = server.http.get(url).json()
        pages.append(page)
        url = page["next"]
    assert [len(page["results"]) for page in pages] == [100, 100, 50]
    rows = [row for page in pages for row in page["results"]]
    assert len({row["id"] for row in rows}) == 250
    times = [row["created_at"] for row in rows]
    assert times == sorted(times, reverse=True)
    assert pages[0]["previous"] is None


def test_pages_do_not_shift_while_predictions_are_added(server: ApiServer) -> None:
    first = server.http.get("/predictions").json()
    second = server.http.get(first["next"]).json()
    new = [server.create("text")["id"] for _ in range(3)]
    assert server.http.get(first["next"]).json()["results"] == second["results"]
    back = server.http.get(second["previous"]).json()
    assert [row["id"] for row in back["results"]] == [row["id"] for row in first["results"]]
    newer = server.http.get(back["previous"]).json()
    assert [row["id"] for row in newer["results"]] == new[::-1]
    assert newer["previous"] is None


def test_created_after_is_inclusive_and_created_before_is_exclusive(server: ApiServer) -> None:
    rows = server.http.get("/predictions").json()["results"]
    early, late = rows[7]["created_at"], rows[2]["created_at"]
    params = {"created_after": early, "created_before": late}
    bounded = server.http.get("/predictions", params=params).json()["results"]
    # OpenAPI, predictions.list: created_after is "at or after", created_before is "before".
    assert [row["id"] for row in bounded] == [row["id"] for row in rows[3:8]]


def test_the_next_page_has_the_same_time_bounds(server: ApiServer) -> None:
    rows = server.http.get("/predictions").json()["results"]
    page = server.http.get("/predictions", params={"created_before": rows[4]["created_at"]}).json()
    following = server.http.get(page["next"]).json()
    assert "created_before" in page["next"]
    assert page["results"][0]["id"] == rows[5]["id"]
    assert not {row["id"] for row in following["results"]} & {row["id"] for row in page["results"]}


def test_the_list_for_source_web_is_empty(server: ApiServer) -> None:
    assert server.http.get("/predictions", params={"source": "web"}).json() == {
        "next": None,
        "previous": None,
        "results": [],
    }


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("cursor", "nonsense", 400),
        ("cursor", "cD0xMjM0", 400),
        ("cursor", "cD0xLiUwMA==", 400),  # p=1.%00; PostgreSQL refuses NUL
        ("cursor", "cD05OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTkueA==", 400),
        ("created_after", "yesterday", 422),
        ("created_before", "2026-99-01T00:00:00Z", 422),
        ("source", "mail", 422),
    ],
)
def test_an_invalid_query_is_refused(server: ApiServer, name: str, value: str, status: int) -> None:
    answer = server.http.get("/predictions", params={name: value})
    assert (answer.status_code, answer.json()["status"]) == (status, status)


def test_the_official_client_pages_through_all_predictions(server: ApiServer) -> None:
    client = replicate.Client(api_token=TOKEN, base_url=server.url)
    ids = [row.id for page in replicate.pagination.paginate(client.predictions.list) for row in page.results]
    client._client.close()
    assert len(set(ids)) == len(ids) >= 250
