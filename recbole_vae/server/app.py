"""The application: which path gives what."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic_core import to_json
from starlette.requests import ClientDisconnect

from recbole_vae.errors import RecBoleVAEError
from recbole_vae.options.limits import LARGEST
from recbole_vae.server import schemas
from recbole_vae.server.errors import RefusedError
from recbole_vae.server.guard import SIMILAR, Guard
from recbole_vae.server.lanes import Answered, Given, Job, LongLane, RankingLane
from recbole_vae.server.metrics import Metrics
from recbole_vae.server.model import Current, Served
from recbole_vae.server.settings import Limits, Settings
from recbole_vae.serving.posterior import Sampling
from recbole_vae.serving.recommender import History, Recommender, Selection
from recbole_vae.version import __version__

LOG = logging.getLogger("recbole_vae.server")


def create_app(settings: Settings, served: Served) -> FastAPI:
    """Return the application that serves a model."""
    return _Application(settings, served).app


class _Application:
    def __init__(self, settings: Settings, served: Served) -> None:
        self.settings, self.limits, self.metrics = settings, settings.limits, Metrics()
        self.current = Current(settings, served)
        self.ranking = RankingLane(self.current, self.metrics, self.limits.queue)
        self.long = LongLane(self.limits.seconds)
        self.ready = False
        self.app = FastAPIOffline(
            title="recbole_vae",
            version=__version__,
            description=f"Recommendations of {type(served.recommender.model).__name__} for {served.recommender.dataset}.",
            redoc_url=None,
            lifespan=self._lifespan,
        )
        self.app.state.ranking = self.ranking
        self.app.add_middleware(Guard, settings=settings, metrics=self.metrics)
        self.app.add_exception_handler(RequestValidationError, _answer_validation)
        refusals: Any = {
            status: {"model": schemas.Problem, "description": text}
            for status, text in {
                400: "The body is not JSON.", 401: "The token is missing or wrong.", 404: "An id is not known.",
                413: "The body is too large.", 415: "The content type is not application/json.",
                422: "A value is not allowed.", 503: "Busy, or out of time.",
            }.items()
        }  # fmt: skip
        posts: tuple[tuple[str, Any, Any, Any], ...] = (
            ("/recommend", schemas.RecommendRequest, schemas.RecommendAnswer, self.recommend),
            ("/explain", schemas.ExplainRequest, schemas.ExplainAnswer, self.explain),
        )
        for path, kind, answer, function in posts:
            self.app.add_api_route(
                path, _answering(function), methods=["POST"], response_class=Response, tags=["Use"],
                summary=str(function.__doc__).strip().rstrip("."), name=path[1:],
                responses={200: _content(answer), **refusals}, openapi_extra=_takes(kind),
            )  # fmt: skip
        gets: tuple[tuple[str, Any, Any, str], ...] = (
            (SIMILAR.replace("{item}", "{item:path}"), schemas.SimilarAnswer, self.similar, "Use"),
            ("/model", schemas.ModelAnswer, self.model, "Watch"),
            ("/health", schemas.StatusAnswer, self.health, "Watch"),
            ("/ready", schemas.StatusAnswer, self.is_ready, "Watch"),
        )
        for path, answer, function, tag in gets:
            self.app.add_api_route(
                path, _answering(function), methods=["GET"], response_class=Response, tags=[tag],
                summary=str(function.__doc__).strip().rstrip("."), name=function.__name__,
                responses={200: _content(answer), **(refusals if tag == "Use" else {})},
            )  # fmt: skip
        self.app.add_api_route(
            "/metrics", _answering(self.show_metrics), methods=["GET"], response_class=Response, tags=["Watch"],
            summary="Metrics in Prometheus's format", responses={200: {"content": {"text/plain": {}}}}, name="metrics",
        )  # fmt: skip

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self.ranking.run()), asyncio.create_task(self.current.watch())]
        if hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.current.ask)
        self.ready = True
        LOG.info("ready")
        yield
        self.ready = False
        for task in tasks:
            task.cancel()
        self.ranking.close()
        self.long.close()

    async def recommend(self, request: Request) -> Response:
        """Rank items for histories or users."""
        asked = schemas.read(schemas.RecommendRequest, await _body(request, self.limits.body))
        schemas.one_of("histories", asked.histories, "users", asked.users)
        _check(asked, self.limits)
        asked = asked.model_copy(update={"k": _at_most("k", asked.k, self.limits.k, "k" in asked.model_fields_set)})
        if asked.samples or asked.diversify:
            answered = await self.long.run(lambda check: self._one_by_one(asked, check))
        else:
            plain = asked.candidates is None and asked.exclude is None
            shared = (asked.k, asked.exclude_seen, asked.popularity_correction) if plain else None
            size = len(asked.histories or asked.users or ())
            answered = await self.ranking.rank(
                Job(functools.partial(_given, asked), size, functools.partial(_selection, asked), shared)
            )
        self.metrics.ranked(answered.known, answered.unknown)
        return _json({
            "rankings": [
                _ranking(ranking, known) for ranking, known in zip(answered.rankings, answered.known, strict=True)
            ],
            "unknown_items": answered.unknown,
            "unknown_candidates": answered.selection.unknown_candidates,
            "unknown_excluded": answered.selection.unknown_excluded,
            "unknown_values": answered.unknown_values,
            "version": answered.served.version,
        })  # fmt: skip

    def _one_by_one(self, asked: schemas.RecommendRequest, check: Callable[[], None]) -> Answered:
        """Rank by samples of the posterior, which takes long for each history."""
        served = self.current.served
        given, recommender = _given(asked, served), served.recommender
        answered = Answered(served, _selection(asked, served), unknown_values=given.unknown_values)
        for place, history in enumerate(given.histories):
            check()
            row = recommender.known(history)
            profiles = None if given.profiles is None else [given.profiles[place]]
            answered.rankings += recommender.rank([row], [answered.selection], profiles)
            answered.known.append(len(set(row)))
            answered.unknown += len(history) - len(row)
        return answered

    async def explain(self, request: Request) -> Response:
        """Say which items of a history each recommendation rests on."""
        asked = schemas.read(schemas.ExplainRequest, await _body(request, self.limits.body))
        schemas.one_of("history", asked.history, "user", asked.user)
        if asked.profile is not None and asked.history is None:
            raise RefusedError(422, "profile: a user of the training data has the profile that it had in training.")
        if asked.history is not None and len(asked.history) > self.limits.items:
            raise _too_many("history", "items", len(asked.history), self.limits.items)
        k = _at_most("k", asked.k, self.limits.k, "k" in asked.model_fields_set)
        served = self.current.served

        def explain(check: Callable[[], None]) -> Any:
            history = asked.history if asked.user is None else _of_user(served.recommender, asked.user)
            assert history is not None
            profile = served.recommender.profile(asked.user) if asked.user is not None else None
            unknown_values = 0
            if asked.profile is not None:
                encoded = served.recommender.encoded([asked.profile], "profile")
                (profile,), unknown_values = encoded.profiles, encoded.unknown.total()
            selection = served.recommender.selection(k, candidates=asked.candidates, exclude=asked.exclude)
            found = served.explainer.explain(
                asked.user or "", history, k, method=asked.method, search=asked.counterfactual, check=check,
                barred=selection.barred, profile=profile,
            )  # fmt: skip
            return {
                **asdict(found),
                "unknown_values": unknown_values,
                "unknown_items": sum(not served.recommender.knows(item) for item in history),
                "unknown_candidates": selection.unknown_candidates,
                "unknown_excluded": selection.unknown_excluded,
            }

        return _json({**await self.long.run(explain), "version": served.version})

    async def similar(
        self,
        request: Request,
        item: Annotated[str, Path(description="Id of an item.")],
        k: Annotated[int, Query(ge=1, description="Length of the list; less where the server allows less.")] = 10,
        popularity_correction: Annotated[
            float | None, Query(ge=-LARGEST, le=LARGEST, description="Above 0 favours rare items.")
        ] = None,
    ) -> Response:
        """List the items that go with an item: what somebody gets whose only item it is."""
        length = _at_most("k", k, self.limits.k, "k" in request.query_params)

        def given(served: Served) -> Given:
            if not served.recommender.knows(item):
                raise RefusedError(404, f"item '{item[:80]}' is not among those of the training data.")
            return Given([[item]])

        answered = await self.ranking.rank(
            Job(
                given, 1, lambda served: served.recommender.selection(length, popularity_correction=popularity_correction),
                (length, True, popularity_correction),
            )
        )  # fmt: skip
        (ranking,) = answered.rankings
        found = _ranking(ranking, 1)
        return _json(
            {"item": item, "items": found["items"], "scores": found["scores"], "version": answered.served.version}
        )

    async def model(self) -> Response:
        """Tell which model is served, and since when."""
        served = self.current.served
        recommender = served.recommender
        fields: list[str] = []
        if recommender.model.user_space is not None:
            from recbole_vae.serving.profiles import fields_of  # here: pandas and SciPy make every import slow

            fields = fields_of(recommender.model)
        return _json({
            "model": type(recommender.model).__name__,
            "dataset": recommender.dataset,
            "version": served.version,
            "file": self.settings.checkpoint.replace("\\", "/").rpartition("/")[2],
            "written": served.written.isoformat(timespec="seconds"),
            "loaded": served.loaded.isoformat(timespec="seconds"),
            "age_seconds": round((datetime.now(timezone.utc) - served.written).total_seconds(), 1),
            "items": len(recommender.items) - 1,
            "new_items": len(recommender.items) - recommender.model.n_items,
            "users": len(recommender.users) - 1,
            "has_posterior": bool(recommender.model.has_posterior),
            "takes_weights": recommender.model.histories.values is not None,
            "profile_fields": fields,
        })  # fmt: skip

    async def health(self) -> Response:
        """Tell that the process answers."""
        return _json({"status": "ok"})

    async def is_ready(self) -> Response:
        """Tell whether requests may be sent."""
        return _json({"status": "ready"}) if self.ready else _json({"status": "not ready"}, 503)

    async def show_metrics(self) -> Response:
        """Return all metrics."""
        return Response(self.metrics.text(self.current, self.ranking.waiting), media_type=CONTENT_TYPE_LATEST)


def _check(asked: schemas.RecommendRequest, limits: Limits) -> None:
    if asked.profiles is not None:
        if asked.histories is None:
            raise RefusedError(
                422,
                "profiles: they go with histories; users of the training data have the profiles that they had there.",
            )
        if len(asked.profiles) != len(asked.histories):
            raise RefusedError(
                422, f"profiles: there are {len(asked.profiles)}, and {len(asked.histories)} histories; give an object or null "
                "for each history.",
            )  # fmt: skip
    for name, given in (("histories", asked.histories), ("users", asked.users)):
        if given is not None and len(given) > limits.histories:
            raise _too_many(name, name, len(given), limits.histories)
    for place, history in enumerate(asked.histories or ()):
        if len(history) > limits.items:
            raise _too_many(f"histories[{place}]", "items", len(history), limits.items)


def _at_most(name: str, value: int, most: int, given: bool) -> int:
    """Return a number that is allowed: a default gives way to the limit, what was given is refused beyond it."""
    if value > most and given:
        raise RefusedError(422, f"{name}: {value} is more than this server allows; it must be at most {most}.")
    return min(value, most)


def _too_many(name: str, what: str, number: int, most: int) -> RefusedError:
    return RefusedError(422, f"{name}: has {number} {what}; this server allows {most}. Send fewer.")


def _selection(asked: schemas.RecommendRequest, served: Served) -> Selection:
    sampling = Sampling(asked.samples, asked.diversify, asked.seed)
    return served.recommender.selection(
        asked.k, asked.exclude_seen, asked.candidates, asked.exclude, asked.popularity_correction, sampling
    )


def _given(asked: schemas.RecommendRequest, served: Served) -> Given:
    if asked.histories is not None:
        if asked.profiles is None:
            return Given(asked.histories)
        encoded = served.recommender.encoded(asked.profiles)
        return Given(asked.histories, encoded.profiles, encoded.unknown.total())
    users, recommender = asked.users or [], served.recommender
    unknown = list(dict.fromkeys(user for user in users if not recommender.knows_user(user)))
    if unknown:
        more = f" and {len(unknown) - 1} more are" if len(unknown) > 1 else " is"
        raise RefusedError(
            404,
            f"users: '{unknown[0][:80]}'{more} not among those of the training data; send their histories instead.",
            unknown_users=unknown,
        )
    return Given([recommender.history(user) for user in users], [recommender.profile(user) for user in users])


def _of_user(recommender: Recommender, user: str) -> History:
    if not recommender.knows_user(user):
        raise RefusedError(404, f"user '{user[:80]}' is not among those of the training data; send a history instead.")
    return recommender.history(user)


def _ranking(ranking: Any, known: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "items": [item for item, _ in ranking], "scores": [score for _, score in ranking], "known_items": known,
    }  # fmt: skip
    if ranking.intervals is not None:
        found["rank_low"], found["rank_high"] = map(list, zip(*ranking.intervals, strict=True))
        found["stability"], found["expected_ndcg"] = ranking.stability, ranking.expected_ndcg
    return found


async def _body(request: Request, most: int) -> bytes:
    """Read the body of a request, but no more than is allowed."""
    length = request.headers.get("content-length", "")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if (
        kind != "application/json"
    ):  # pages of other sites, which a browser lets send any other without asking the server
        raise RefusedError(415, f"content-type: {kind[:60]!r} is not allowed; it must be application/json.")
    pieces, size = [], int(length) if length.isdecimal() and len(length) < 20 else 0
    if size <= most:
        size = 0
        try:
            async for piece in request.stream():
                size += len(piece)
                if size > most:
                    break
                pieces.append(piece)
        except ClientDisconnect:  # for the metrics; nobody reads it
            raise RefusedError(400, "the body broke off.") from None
    if size > most:
        raise RefusedError(
            413, f"the body has more than {most} bytes, which is what this server allows. Send less at a time."
        )
    return b"".join(pieces)


def _json(value: Any, status: int = 200) -> Response:
    return Response(to_json(value), status, media_type="application/json")


def _answering(function: Callable[..., Awaitable[Response]]) -> Callable[..., Awaitable[Response]]:
    """Turn what a function raises into an answer."""

    @functools.wraps(function)
    async def answering(*args: Any, **kwargs: Any) -> Response:
        try:
            return await function(*args, **kwargs)
        except RefusedError as error:
            response = _json({"detail": error.detail, **error.more}, error.status)
            if error.status == 503:
                response.headers["retry-after"] = "1"
            return response
        except RecBoleVAEError as error:
            return _json({"detail": " ".join(str(error).split())}, 422)
        except Exception as error:
            # Without its message, which may have parts of a history.
            where = "".join(traceback.format_tb(error.__traceback__))
            LOG.error("%s in a request; please report it:\n%s", type(error).__name__, where)
            return _json({"detail": "an error of the server; its log has more."}, 500)

    return answering


async def _answer_validation(request: Request, error: Any) -> Response:
    """Say what is wrong with the query."""
    first = error.errors()[0]
    return _json({"detail": f"{first['loc'][-1]}: {first['msg'].replace('Input should', 'it must')}."}, 422)


def _content(model: Any) -> dict[str, Any]:
    return {"model": model, "description": "The result."}


def _takes(model: Any) -> dict[str, Any]:
    """Return what OpenAPI is told of a body that the function reads itself."""
    schema = model.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
