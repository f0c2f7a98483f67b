"""Studies as Ray jobs: submitted once, found again by their metadata, followed and stopped."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shlex
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.access import ClusterError, is_loopback, no_answer, refusal
from cluster.bundle import copy_packages, make_bundle
from cluster.token import use_token_if_there
from sharelm.digest import digest
from sharelm.errors import InputError
from sharelm.study import Study

use_token_if_there()

import ray  # noqa: E402
import requests  # noqa: E402
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient  # noqa: E402

STUDY, DIGEST, STORE, SHIPPED = "sharelm_study", "sharelm_digest", "sharelm_store", "sharelm_shipped"
CONNECT_S, ANSWER_S, END_S, INSPECT_S = 3, 60, 60, 300
NODES = "sharelm_nodes"  # the key under which `jobs.inspect_nodes` prints what it found


class _Client(JobSubmissionClient):
    """Ray's client with a time-out; Ray's own waits for minutes for a host that does not answer."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        return super()._do_request(method, endpoint, timeout=(CONNECT_S, ANSWER_S), **options)


def connect(address: str) -> JobSubmissionClient:
    """A client of the job server at this address, which has been greeted (`cluster.access`)."""
    logging.disable(logging.INFO)  # Ray's client tells of every upload
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray lets the environment win over an argument
    with _one_sentence(address):
        return _Client(address)


@contextmanager
def _one_sentence(address: str) -> Iterator[None]:
    """Ray's and requests' failures as `ClusterError`."""
    try:
        yield
    except ray.exceptions.AuthenticationError:
        raise refusal(address) from None
    except (ConnectionError, requests.exceptions.ConnectionError, requests.exceptions.Timeout):
        raise no_answer(address) from None
    except (requests.exceptions.RequestException, RuntimeError, ValueError) as error:
        raise ClusterError(f"the cluster at {address} could not do it: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def store_for_cluster(uri: str, address: str) -> str:
    """The store's address on the cluster; a folder must have the same path there.

    Raises `InputError` for a relative folder and a cluster elsewhere.
    """
    path = Path(uri).expanduser()
    if "://" in uri or path.is_absolute():
        return uri if "://" in uri else str(path)
    if not is_loopback(address):
        raise InputError(
            f"--store = {uri!r} is a folder of this machine; give s3://BUCKET/PREFIX, or an absolute path that every "
            "node mounts"
        )
    return str(path.absolute())


@dataclass(frozen=True)
class Job:
    """A Ray job that runs a study; times in seconds since the epoch."""

    study: str
    id: str
    status: str
    digest: str
    store: str
    shipped: str
    started: float | None
    ended: float | None
    message: str

    @property
    def attempt(self) -> int:
        """Which submission of the same study and store this is, from 1."""
        return int(self.id.rpartition("-")[2])

    @property
    def over(self) -> bool:
        """Whether it has ended, successfully or not."""
        return JobStatus(self.status).is_terminal()


def _job(details: JobDetails) -> Job | None:
    """The job of a study with these details; None where it does not run a study."""
    facts = details.metadata or {}
    if details.submission_id is None or not {STUDY, DIGEST, STORE, SHIPPED} <= facts.keys():
        return None
    return Job(
        study=facts[STUDY],
        id=details.submission_id,
        status=details.status.value,
        digest=facts[DIGEST],
        store=facts[STORE],
        shipped=facts[SHIPPED],
        started=details.start_time / 1000 if details.start_time else None,
        ended=details.end_time / 1000 if details.end_time else None,
        message=" ".join((details.message or "").split()),
    )


def study_jobs(client: JobSubmissionClient, name: str | None = None) -> list[Job]:
    """The jobs that run a study (of this name), newest first."""
    with _one_sentence(client.get_address()):
        jobs = [job for job in map(_job, client.list_jobs()) if job and name in (None, job.study)]
    return sorted(jobs, key=lambda job: (job.started or 0, job.id), reverse=True)


def find_job(client: JobSubmissionClient, name: str) -> Job:
    """The newest job of the study of this name."""
    jobs = study_jobs(client)
    for job in jobs:
        if job.study == name:
            return job
    there = ", ".join(sorted({job.study for job in jobs})) or "none"
    raise InputError(f"no job of study {name!r} at {client.get_address()}; there are {there}")


def submit(client: JobSubmissionClient, path: Path, study: Study, store: str) -> tuple[str, str | None]:
    """Submit a study. Returns its job's id, and why it was not submitted (None if it was).

    It is not submitted while it runs, nor if it has finished with the same study, store, code and data.
    """
    named = digest(study.tree())
    with tempfile.TemporaryDirectory(prefix="sharelm-") as folder:
        file, shipped = make_bundle(Path(folder), path, study)
        same = [job for job in study_jobs(client, study.name) if (job.digest, job.store) == (named, store)]
        for job in same:
            if not job.over:
                return job.id, f"is {job.status.lower()} already"
            if job.status == JobStatus.SUCCEEDED and job.shipped == shipped:
                return job.id, "has finished already, with the same code and data"
        attempt = 1 + max((job.attempt for job in same), default=0)
        job_id = f"{study.name}-{digest({DIGEST: named, STORE: store})[:12]}-{attempt}"
        with _one_sentence(client.get_address()):
            try:
                client.submit_job(
                    entrypoint=shlex.join(["python", "-m", "jobs.study", "--study", file, "--store", store]),
                    submission_id=job_id,
                    metadata={STUDY: study.name, DIGEST: named, STORE: store, SHIPPED: shipped},
                    runtime_env={"working_dir": folder},
                )
            except RuntimeError as error:
                if "already exists" not in str(error):
                    raise
                return job_id, "was submitted by someone else a moment ago"
    return job_id, None


def print_logs(client: JobSubmissionClient, job_id: str, follow: bool) -> None:
    """The job's output so far, or until it ends."""
    with _one_sentence(client.get_address()):
        if not follow:
            sys.stdout.write(client.get_job_logs(job_id))
            return

        async def tail() -> None:
            async for text in client.tail_job_logs(job_id):
                sys.stdout.write(text)
                sys.stdout.flush()

        asyncio.run(tail())


def _end(client: JobSubmissionClient, job_id: str, within_s: float) -> JobDetails:
    """The job once it has ended; `ClusterError` where it has not in time."""
    deadline = time.monotonic() + within_s
    with _one_sentence(client.get_address()):
        while not (job := client.get_job_info(job_id)).status.is_terminal():
            if time.monotonic() > deadline:
                raise ClusterError(f"job {job_id} was still {job.status.value} after {within_s} s")
            time.sleep(0.2)
    return job


def wait_for(client: JobSubmissionClient, job_id: str) -> int:
    """Follow a job to its end. Returns the driver's exit code, or 130 for a job that was stopped."""
    print_logs(client, job_id, follow=True)
    job = _end(client, job_id, END_S)
    if job.status == JobStatus.STOPPED:
        return 130
    return 0 if job.status == JobStatus.SUCCEEDED else job.driver_exit_code or 1


def stop(client: JobSubmissionClient, job_id: str) -> str:
    """Stop a job, wait until it has ended, and return its last status."""
    with _one_sentence(client.get_address()):
        client.stop_job(job_id)
    return _end(client, job_id, END_S).status.value


def inspect_nodes(client: JobSubmissionClient, store: str) -> dict[str, Any]:
    """What a job on the cluster finds on every node (see `jobs/inspect_nodes.py`); it trains nothing.

    Raises `ClusterError` with the job's last words where it found nothing.
    """
    job_id = f"sharelm-doctor-{uuid.uuid4().hex[:12]}"
    with tempfile.TemporaryDirectory(prefix="sharelm-") as folder, _one_sentence(client.get_address()):
        copy_packages(Path(folder))
        client.submit_job(
            entrypoint=shlex.join(["python", "-m", "jobs.inspect_nodes", "--store", store]),
            submission_id=job_id,
            runtime_env={"working_dir": folder},
        )
    try:
        job = _end(client, job_id, INSPECT_S)
    except ClusterError:
        with _one_sentence(client.get_address()):
            client.stop_job(job_id)
        raise
    with _one_sentence(client.get_address()):
        lines = client.get_job_logs(job_id).strip().splitlines()
    for line in reversed(lines):
        if line.startswith(f'{{"{NODES}"'):
            found: dict[str, Any] = json.loads(line)[NODES]
            return found
    said = lines[-1] if lines else " ".join((job.message or "it said nothing").split())
    raise ClusterError(f"job {job_id} ended as {job.status.value.lower()}: {said}")
