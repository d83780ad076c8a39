"""A model in a GGUF file, served in this process by llama.cpp (package ``xllamacpp``)."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from glimp_integrations import forks, io_loop
from glimp_integrations.backends.gguf import cache_bytes, is_gguf
from glimp_integrations.backends.http.openai import OpenAIBackend
from glimp_integrations.backends.http.servers import LLAMA_CPP
from glimp_integrations.errors import BackendError, ConfigError
from glimp_integrations.weights.pairs import WORKING_BYTES

__all__ = ["LlamaCppBackend"]

LOCAL_DEVICE = "llama.cpp in this process"


class LlamaCppBackend(OpenAIBackend):
    """A model in a GGUF file, run by llama.cpp in this process and loaded on first use.

    llama.cpp's server listens on a free port of the loopback interface, and only accepts a random
    key that this process has made.

    Args:
        model_path: The GGUF file.
        name: Name shown in traces; by default the name of the file.
        context_window: The most tokens of one conversation.
        parallel: How many conversations are served at the same time.
        threads: Number of CPU threads; by default one for every usable core.
        prompt_cache_mib: Host memory for the prompts of earlier conversations, in MiB; 0 for none.
        server_options: Further attributes of xllamacpp's ``CommonParams``, such as
            ``{"n_gpu_layers": 0}``.
        chat_template: As for ``OpenAIBackend``.
        template_kwargs: As for ``OpenAIBackend``.
        top_logprobs: As for ``OpenAIBackend``.
        extra_body: As for ``OpenAIBackend``.

    Raises:
        ConfigError: There is no such file, it is not a GGUF file, or the extra is missing.
    """

    sends_headers = False  # the server runs in this process

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        *,
        name: str | None = None,
        context_window: int = 8192,
        parallel: int = 4,
        threads: int | None = None,
        prompt_cache_mib: int = 512,
        server_options: Mapping[str, Any] | None = None,
        chat_template: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        top_logprobs: int = 20,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            name or Path(model_path).stem,
            base_url="http://127.0.0.1/v1",
            api_key=secrets.token_urlsafe(24),
            server=LLAMA_CPP.name,
            top_logprobs=top_logprobs,
            chat_template=chat_template,
            template_kwargs=template_kwargs,
            extra_body=extra_body,
            context_window=(server_options or {}).get("n_ctx", context_window),
            verify="off",
            device=LOCAL_DEVICE,
        )
        self.url = None
        self._path = Path(model_path)
        self._options = {
            "n_ctx": context_window,
            "n_parallel": parallel,
            # One KV cache for all conversations, so that each can use the whole context window.
            "kv_unified": True,
            "cache_ram_mib": prompt_cache_mib,
            "verbosity": 0,
            "ui": False,
            **(server_options or {}),
        }
        self._room: dict[str, int] = {}
        self._threads = threads or _usable_cores()
        self._server: Any = None
        self._starting = forks.LoopLock()

    def forget_parent(self) -> None:
        """A forked process goes on using the parent's server, and never stops it."""
        super().forget_parent()
        if self._server is not None:
            forks.keep(self._server)

    async def aclose(self) -> None:
        await super().aclose()
        # When the last reference to the server goes, it waits for its threads. That must not block
        # the I/O loop, so this list holds the last reference, and another thread clears it.
        servers, self._server, self._capabilities = [self._server], None, None
        await asyncio.to_thread(servers.clear)

    def memory(self) -> tuple[int, int | None]:
        """Bytes that it takes: without KV cache, and for the cache of one context window.

        ``None``: nobody knows how large the cache is.
        """
        size, token = self._sizes()
        fixed = size + WORKING_BYTES + (int(self._options["cache_ram_mib"]) << 20)
        return fixed, None if token is None else token * int(self._options["n_ctx"])

    def make_room(self, windows: int, slots: int) -> None:
        """Load it with so many context windows, for so many conversations at a time.

        One conversation has one window, as before. A model that is loaded stays as it is until it
        is closed; where room was made before, the larger one counts.

        Args:
            windows: Context windows in the KV cache that all conversations share.
            slots: Conversations that are decoded together.
        """
        wanted = {"n_ctx": windows * int(self._options["n_ctx"]), "n_parallel": slots}
        self._room = {name: max(n, self._room.get(name, 0)) for name, n in wanted.items()}

    def _sizes(self) -> tuple[int, int | None]:
        """Bytes of the file, and of a token in the KV cache."""
        if not self._path.is_file():
            return 0, None  # which is said when it is loaded
        return self._path.stat().st_size, cache_bytes(self._path)

    async def _locate(self) -> Path:
        """The path of the file. Subclasses may fetch the weights here."""
        return self._path

    async def _start(self) -> None:
        if self._server is not None:
            return
        async with self._starting.here():
            if self._server is None:
                path = await self._locate()
                _check_file(path)
                self._server = await asyncio.to_thread(self._serve, path)
                address = self._server.listening_address
                self._base_url, self.url = f"{address}/v1", address
                io_loop.at_exit(self.aclose)

    def _serve(self, path: Path) -> Any:
        if self._room:
            # Whether a GPU has the memory, only it can tell.
            with suppress(BackendError):
                return self._load(path, {**self._options, **self._room})
        return self._load(path, self._options)

    def _load(self, path: Path, options: Mapping[str, Any]) -> Any:
        try:
            with forks.LOADING:
                import xllamacpp
        except ImportError as error:
            raise ConfigError(
                "serving a GGUF file needs llama.cpp: pip install 'glimp-integrations[llamacpp]'"
            ) from error
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.model_alias = {self.name}
        params.hostnames = ["127.0.0.1"]
        params.port = 0
        params.api_keys = [self._api_key().get_secret_value()]
        params.cpuparams.n_threads = self._threads
        params.cpuparams_batch.n_threads = self._threads
        for option, value in options.items():
            if not hasattr(params, option):
                raise ConfigError(f"server_options: xllamacpp has no option {option!r}")
            setattr(params, option, value)
        try:
            with forks.LOADING:
                return xllamacpp.Server(params)
        except Exception as error:
            raise BackendError(
                f"llama.cpp cannot load {path.name} ({error}): is the file complete, and is "
                "there enough memory?",
                model=self.name,
            ) from error

    def _api_key(self) -> SecretStr:
        assert self._key is not None
        return self._key


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise ConfigError(f"no model file at {path}: give the path of a GGUF file")
    if not is_gguf(path):
        raise ConfigError(f"{path} is not a GGUF file (it does not begin with 'GGUF')")


def _usable_cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1
