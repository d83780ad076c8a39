"""What a caller can get wrong with models of this process, and what is said about it."""

from __future__ import annotations

import copy
import json
import math
import pickle
import shutil
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import (
    END,
    PROMPT,
    TEMPLATE,
    bare,
    config,
    encoded,
    generate,
    meddled,
    model,
    on_loop,
    passes,
    shared,
    tokenizer,
)
from transformers import AutoModelForCausalLM

import glimp_integrations.backends
from glimp_integrations import BackendError, ConfigError, GlimpError, GlimpRouter
from glimp_integrations.backends import HuggingFaceBackend, model_strings
from glimp_integrations.backends.hf import loading
from glimp_integrations.backends.hf.loading import Source
from glimp_integrations.backends.scripted import ScriptedBackend

SECRET = "hf_veryverysecret"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model as ``save_pretrained`` leaves it."""
    place = tmp_path_factory.mktemp("models") / "tiny-one"
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config("llama", len(tokenizer()))).save_pretrained(place)
    tokenizer().save_pretrained(place)
    return place


@pytest.fixture
def own_folder(folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(folder, tmp_path / "tiny-one"))


def load(place: Any, **options: Any) -> HuggingFaceBackend:
    """A backend that has been loaded."""
    backend = HuggingFaceBackend(place, **options)
    on_loop(backend.capabilities)
    return backend


class TestArguments:
    @pytest.mark.parametrize(
        ("name", "value"),
        [("top_logprobs", 0), ("parallel", 0), ("cache_bytes", -1), ("context_window", 0)],
    )
    def test_impossible_numbers_are_named(self, name, value):
        with pytest.raises(ConfigError, match=f"{name} is {value}; expected at least"):
            HuggingFaceBackend("org/model", **{name: value})

    def test_what_is_no_model(self):
        with pytest.raises(ConfigError, match=r"model is a int; expected .* a path"):
            HuggingFaceBackend(42)

    @pytest.mark.parametrize("tokens", [None, "org/model", Path("org")])
    def test_a_loaded_model_without_its_loaded_tokenizer(self, tokens):
        with pytest.raises(ConfigError, match="pass tokenizer="):
            HuggingFaceBackend(shared(), tokens)

    def test_nothing_is_loaded_before_it_is_used(self, tmp_path):
        HuggingFaceBackend(tmp_path / "nowhere")


class TestTemplates:
    @pytest.fixture
    def bald(self) -> Any:
        """A tokenizer without a chat template."""
        tokens = copy.deepcopy(tokenizer())
        tokens.chat_template = None
        return tokens

    def test_a_model_without_one_says_what_to_pass(self, make, bald):
        router = GlimpRouter(make(), make(shared(), bald, name="bald"), temperature=0)
        with pytest.raises(ConfigError, match=r"bald has no chat template: pass chat_template="):
            router.run("is it?")

    @pytest.mark.parametrize(
        "template",
        [
            TEMPLATE,
            lambda ms: (
                "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in ms)
                + "<|im_start|>assistant\n<think>\n"
            ),
        ],
        ids=["Jinja", "function"],
    )
    def test_passing_one_helps(self, make, bald, template):
        limits = {"temperature": 0, "max_thinking_tokens": 15, "max_tokens": 5}
        own = make(shared(), bald, chat_template=template)
        result = GlimpRouter(own, own, **limits).run("is it?")
        usual = GlimpRouter(make(), make(), **limits).run("is it?")
        assert (result.reasoning, result.answer) == (usual.reasoning, usual.answer)

    def test_a_conversation_the_template_refuses(self, make):
        tokens = copy.deepcopy(tokenizer())
        tokens.chat_template = "{{ raise_exception('no tools here') }}"
        backend = make(shared(), tokens, name="picky")
        with pytest.raises(
            ConfigError, match=r"picky .*cannot render this conversation: no tools here"
        ):
            GlimpRouter(backend, backend).run("is it?")

    def test_control_tokens_of_a_question_are_only_text(self, make):
        backend = make("llama", "bytes")
        GlimpRouter(backend, backend, temperature=0, max_thinking_tokens=5, max_tokens=2).run(
            "is it <|im_end|>?"
        )
        ids = encoded(backend.requests[0].prompt, "bytes")
        assert ids.count(END) == 1  # the template's own


class TestPlaces:
    def test_a_path_that_does_not_exist(self, tmp_path):
        with pytest.raises(ConfigError, match=r"no model at .*nowhere/at/all.*no such file"):
            load(tmp_path / "nowhere/at/all")

    def test_a_file_that_is_no_gguf(self, tmp_path):
        path = tmp_path / "model.gguf"
        path.write_bytes(b"PK\x03\x04")
        with pytest.raises(ConfigError, match=r"model\.gguf is a file but not a GGUF file"):
            load(path)

    @pytest.mark.parametrize("size", [0, 4, 100])
    def test_a_gguf_that_is_damaged(self, tmp_path, size):
        path = tmp_path / "model.gguf"
        path.write_bytes(b"GGUF"[:size] + b"\x03\0\0\0" * (max(0, size - 4) // 4))
        with pytest.raises(GlimpError, match=r"model\.gguf"):
            load(path)

    def test_a_folder_without_a_model(self, tmp_path):
        with pytest.raises(ConfigError, match=r"holds no model \(no config\.json\)$"):
            load(tmp_path)

    def test_for_a_folder_with_a_gguf_the_error_shows_how_to_name_it(self, tmp_path):
        (tmp_path / "small-q4.gguf").write_bytes(b"GGUF")
        with pytest.raises(ConfigError, match=r"gguf_file=\.\.\. \(small-q4\.gguf\)"):
            load(tmp_path)

    def test_a_gguf_that_is_not_in_the_folder(self, folder):
        with pytest.raises(ConfigError, match=r"there is no other\.gguf in .*tiny-one"):
            load(folder, gguf_file="other.gguf")

    def test_a_hub_id_that_is_not_here(self):
        with pytest.raises(ConfigError, match="'no-such-org/no-such-model' cannot be loaded"):
            load("no-such-org/no-such-model", local_files_only=True)

    @pytest.mark.parametrize("place", ["org/model/extra", "what is this?", "http://x/y"])
    def test_what_cannot_be_an_id(self, place):
        with pytest.raises(ConfigError, match=r"not a Hugging Face id \(ORG/NAME\)"):
            load(place)

    @pytest.mark.parametrize(
        ("file", "text"),
        [
            ("config.json", b"{ not json"),
            ("config.json", b'{"model_type": "no-such-kind"}'),
            ("config.json", b'{"model_type": "vit"}'),
            ("model.safetensors", None),
            ("model.safetensors", b"\x10\0\0\0\0\0\0\0truncated"),
            ("tokenizer.json", b"{ not json"),
        ],
        ids=["no json", "unknown kind", "no language model", "no weights", "half", "no tokenizer"],
    )
    def test_a_damaged_folder(self, own_folder, file, text):
        if text is None:
            (own_folder / file).unlink()
        else:
            (own_folder / file).write_bytes(text)
        with pytest.raises(GlimpError, match="tiny-one"):
            load(own_folder)

    def test_weights_of_another_shape(self, own_folder):
        path = own_folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 64}))
        with pytest.raises(GlimpError, match="tiny-one"):
            load(own_folder)

    def test_a_failed_load_can_be_repeated(self, folder, tmp_path):
        backend = HuggingFaceBackend(tmp_path / "later")
        with pytest.raises(ConfigError):
            on_loop(backend.capabilities)
        shutil.copytree(folder, tmp_path / "later")
        assert on_loop(backend.capabilities).in_process
        backend.close()


class TestLoading:
    def test_a_saved_folder_works_and_tells_of_its_progress_on_stderr(self, folder, capsys):
        backend = load(folder, name="tiny")
        output = capsys.readouterr()
        assert "loading tiny (" in output.err and "float32)" in output.err
        assert "loaded tiny in 0 s on cpu" in output.err
        assert output.out == ""
        expected = AutoModelForCausalLM.from_pretrained(folder)
        assert generate(backend, PROMPT, 10).text == bare(
            expected, tokenizer(), encoded(PROMPT), 10
        )
        backend.close()

    def test_it_is_loaded_once(self, folder, capsys):
        backend = load(folder, name="tiny")
        generate(backend, PROMPT, 2)
        assert capsys.readouterr().err.count("loaded tiny") == 1
        backend.close()
        generate(backend, PROMPT, 2)  # and again after it was closed
        assert capsys.readouterr().err.count("loaded tiny") == 1
        backend.close()

    @pytest.mark.parametrize("dtype", ["bfloat16", "torch.bfloat16", torch.bfloat16])
    def test_a_dtype_is_used(self, folder, dtype):
        backend = load(folder, dtype=dtype)
        assert backend._engine.runner.model.dtype == torch.bfloat16
        assert generate(backend, PROMPT, 3).tokens
        backend.close()

    @pytest.mark.parametrize("dtype", ["bfloat17", "nn", 16])
    def test_a_wrong_dtype_is_named(self, folder, dtype):
        with pytest.raises(ConfigError, match=rf"dtype is .*{dtype}.*expected 'auto'"):
            load(folder, dtype=dtype)

    def test_another_tokenizer(self, folder, own_folder):
        (own_folder / "tokenizer.json").unlink()
        backend = load(own_folder, tokenizer=folder)
        assert generate(backend, PROMPT, 3).report.prompt_tokens == len(encoded(PROMPT))
        backend.close()

    def test_the_window_is_the_configs(self, folder):
        backend = load(folder)
        assert on_loop(backend.capabilities).context_window == 2048
        backend.close()


class TestRoom:
    def test_too_little_memory_is_an_error_before_weights_are_read(self, own_folder, monkeypatch):
        (own_folder / "model.safetensors").unlink()  # nobody looks for them
        monkeypatch.setattr(loading, "free_bytes", lambda device: 12_345)
        numbers = sum(p.numel() for p in shared().parameters() if p.dim() > 1 or len(p) == 32)
        with pytest.raises(ConfigError) as caught:
            load(own_folder)
        assert "12,345 bytes free" in str(caught.value)
        assert f"tiny-one needs {4 * numbers:,} bytes" in str(caught.value)
        assert "float32" in str(caught.value) and "choose a smaller model" in str(caught.value)

    def test_a_narrower_dtype_needs_less(self, own_folder, monkeypatch):
        monkeypatch.setattr(loading, "free_bytes", lambda device: 12_345)
        needed = []
        for dtype in ("float32", "bfloat16"):
            with pytest.raises(ConfigError, match="bytes free") as caught:
                load(own_folder, dtype=dtype)
            needed.append(int(str(caught.value).split(" needs ")[1].split(" ")[0].replace(",", "")))
        assert needed[0] == 2 * needed[1]

    def test_enough_is_enough(self, folder, monkeypatch):
        monkeypatch.setattr(loading, "free_bytes", lambda device: 10**6)
        load(folder).close()

    def test_what_a_device_does_not_tell_is_no_reason_to_refuse(self, folder, monkeypatch):
        monkeypatch.setattr(loading, "free_bytes", lambda device: None)
        load(folder).close()

    def test_kept_caches_get_a_quarter_of_what_is_free(self, folder, monkeypatch):
        monkeypatch.setattr(loading, "free_bytes", lambda device: 4 * 10**6)
        backend = load(folder)
        assert backend._engine.runner.pool.limit == 10**6
        backend.close()


class TestTooLong:
    def test_a_conversation_longer_than_the_window(self, make):
        tight = make(name="tight", context_window=40)
        router = GlimpRouter(make(), tight, temperature=0)
        with pytest.raises(ConfigError, match=r"has \d+ tokens, but tight .* window of 40"):
            router.run(PROMPT * 2)
        assert tight.requests == []

    def test_the_models_own_window(self, make):
        backend = make(model(max_position_embeddings=64), name="tight")
        with pytest.raises(ConfigError, match="tight has a context window of 64"):
            GlimpRouter(backend, backend).run(PROMPT * 4)

    def test_a_text_that_fills_it(self, make):
        backend = make(context_window=40)
        answer = generate(backend, PROMPT, 400)
        assert answer.report.ended == "context"
        assert answer.report.prompt_tokens + answer.report.completion_tokens == 40
        with pytest.raises(BackendError, match="window of 40") as caught:
            generate(backend, PROMPT * 2, 1)
        assert caught.value.context_full

    def test_a_routed_answer_ends_in_time(self, make):
        backend = make(context_window=90)
        result = GlimpRouter(backend, backend, temperature=0, threshold=2.0).run("is it?")
        assert result.trace.stop_reason == "context_full" or result.trace.steps
        for report in backend.reports:
            assert report.prompt_tokens + report.completion_tokens <= 90


class TestNumbersThatAreNone:
    def spoil(self, after: int, value: float = math.nan) -> Any:
        """Logits that are not numbers from some pass on."""
        number = 0

        def meddle(_: torch.Tensor, output: Any) -> Any:
            nonlocal number
            number += 1
            if number > after:
                output.logits = torch.full_like(output.logits, value)
            return output

        return meddle

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_the_error_has_the_model_the_step_and_the_written_text(self, make, value):
        weights = model(seed=3)
        large = make(weights, name="ill-one")
        router = GlimpRouter(
            make(),
            large,
            temperature=0,
            threshold=-1,
            max_step_tokens=6,
            max_thinking_tokens=60,
            max_tokens=5,
        )
        with passes(weights) as seen:
            whole = router.run("is it?")
        healthy = len(seen) // 2
        large.drop_caches()
        with meddled(weights, self.spoil(healthy, value)), pytest.raises(BackendError) as caught:
            router.run("is it?")
        error = caught.value
        assert error.model == "ill-one" and error.role == "large"
        assert "ill-one computed logits that are not numbers" in str(error)
        assert "float64 is too narrow" in str(error)
        assert error.step >= 2  # healthy ones before it
        assert f"[step {error.step}]" in str(error)
        assert len(error.partial.trace.steps) == error.step
        written = error.partial.reasoning
        assert written and whole.reasoning.startswith(written)
        assert sum(step.tokens for step in error.partial.trace.steps) == healthy

    def test_a_small_model_at_its_glimpse(self, make):
        weights = model(seed=3)
        small = make(weights, name="ill-one")
        router = GlimpRouter(small, make("qwen2"), temperature=0, threshold=0, max_step_tokens=6)
        generate(small, "so", 1)
        with (
            meddled(weights, self.spoil(1)),
            pytest.raises(BackendError, match=r"small model: ill-one computed.*\[step 2\]") as it,
        ):
            router.run("is it?")
        assert it.value.partial.trace.steps[0].author == "large"
        assert it.value.partial.reasoning

    def test_damaged_weights(self, make):
        weights = model(seed=4)
        weights.model.layers[0].mlp.up_proj.weight[3] = math.nan
        backend = make(weights, name="ill-one")
        with pytest.raises(BackendError, match=r"ill-one computed .* weights are damaged"):
            GlimpRouter(backend, backend, temperature=0).run("is it?")

    def test_the_other_model_can_go_on_alone(self, make):
        weights = model(seed=3)
        small = make(weights, name="ill-one")
        generate(small, "so", 1)
        with meddled(weights, self.spoil(3)):
            result = GlimpRouter(
                small,
                make("qwen2"),
                temperature=0,
                on_backend_error="large",
                max_step_tokens=6,
                max_thinking_tokens=40,
                max_tokens=5,
            ).run("is it?")
        assert result.trace.steps[-1].author == "large"
        assert "ill-one computed logits" in result.trace.errors[0]

    def test_a_draft_is_no_way_around(self, make):
        weights = model(seed=3)
        large = make(weights, name="ill-one")
        generate(large, "so", 1)
        with meddled(weights, self.spoil(4)), pytest.raises(BackendError, match="not numbers"):
            generate(large, PROMPT, 40, draft=make(seed=3))

    def test_later_requests_are_not_spoilt(self, make):
        weights = model(seed=3)
        backend = make(weights)
        with meddled(weights, self.spoil(6)), pytest.raises(BackendError):
            generate(backend, PROMPT, 20)
        expected = bare(weights, tokenizer(), encoded(PROMPT), 20)
        assert generate(backend, PROMPT, 20).text == expected


class TestWithModelsElsewhere:
    def away(self) -> ScriptedBackend:
        return ScriptedBackend(["is it", "\n\n", "yes"], name="far-away")

    def test_the_strategy_of_this_process(self, make):
        with pytest.raises(ConfigError, match=r"'in_process' needs a small model .*'hf:\.\.\.'"):
            GlimpRouter(self.away(), make(), strategy="in_process").run("is it?")

    def test_the_estimator_of_this_process(self, make):
        with pytest.raises(ConfigError, match=r"'full' needs the whole vocabulary.* 20 likeliest"):
            GlimpRouter(self.away(), make(), entropy_estimator="full").run("is it?")

    def test_a_large_model_elsewhere_is_fine_for_both(self, make):
        result = GlimpRouter(
            make(),
            self.away(),
            strategy="in_process",
            entropy_estimator="full",
            temperature=0,
            max_thinking_tokens=20,
            max_tokens=5,
        ).run("is it?")
        assert {step.estimator for step in result.trace.steps} == {"full"}

    def test_auto_takes_what_there_is(self, make):
        limits = {"temperature": 0, "max_thinking_tokens": 20, "max_tokens": 5}
        here = GlimpRouter(make(), self.away(), **limits).run("is it?")
        away = GlimpRouter(self.away(), make(), **limits).run("is it?")
        assert (here.trace.strategy, here.trace.steps[0].estimator) == ("in_process", "full")
        assert (away.trace.strategy, away.trace.steps[0].estimator) == ("fused", "topk_renorm@20")

    def test_k_is_the_backends(self, make):
        limits = {"temperature": 0, "max_thinking_tokens": 20, "max_tokens": 5}
        result = GlimpRouter(
            make(top_logprobs=7), make(), entropy_estimator="topk_other", **limits
        ).run("is it?")
        assert result.trace.steps[0].estimator == "topk_other@7"
        assert all(s.entropy <= math.log(8) for s in result.trace.steps if s.entropy is not None)


@pytest.mark.parametrize("missing", ["transformers", "torch", "psutil"])
def test_without_a_package_the_error_has_the_command_to_install_it(monkeypatch, folder, missing):
    name = "glimp_integrations.backends.hf"
    monkeypatch.setattr(glimp_integrations.backends, "hf", None)  # what it was comes back
    for loaded in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigError) as caught:
        load(folder, name="tiny")
    for loaded in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
        monkeypatch.delitem(sys.modules, loaded)
    assert "pip install 'glimp-integrations[hf]'" in str(caught.value)
    assert f"running tiny in this process needs transformers and torch ({missing} is missing)" in (
        str(caught.value)
    )


class TestSecrets:
    def everything(self, error: BaseException) -> str:
        """All a user or a log may get to see of an error."""
        return repr(error) + "".join(traceback.format_exception(error))

    def test_a_token_is_in_no_repr(self):
        backend = HuggingFaceBackend("org/model", token=SECRET)
        assert SECRET not in repr(backend) + repr(vars(backend)) + repr(backend._source())

    def test_nor_in_an_error_about_a_place(self, tmp_path):
        for place in ("no-such-org/no-such-model", tmp_path, tmp_path / "nowhere"):
            with pytest.raises(ConfigError) as caught:
                load(place, token=SECRET, local_files_only=True)
            assert SECRET not in self.everything(caught.value)

    @pytest.mark.parametrize("kind", [OSError, ValueError, RuntimeError, torch.OutOfMemoryError])
    def test_nor_in_what_a_library_says_with_it(self, folder, monkeypatch, kind):
        def refuse(*_: Any, token: str, **__: Any) -> None:
            raise kind(f"401 for 'Bearer {token}': gated")

        monkeypatch.setattr(loading.AutoConfig, "from_pretrained", refuse)
        with pytest.raises(GlimpError) as caught:
            load(folder, token=SECRET)
        assert "gated" in str(caught.value) or "401" in str(caught.value)
        assert SECRET not in self.everything(caught.value)

    def test_nor_a_part_of_it_in_a_shortened_message(self, folder, monkeypatch):
        def refuse(*_: Any, token: str, **__: Any) -> None:
            raise OSError("x" * 290 + token)

        monkeypatch.setattr(loading.AutoConfig, "from_pretrained", refuse)
        with pytest.raises(GlimpError) as caught:
            load(folder, token=SECRET)
        assert "xxx" in str(caught.value) and SECRET[:8] not in str(caught.value)

    def test_nor_a_proxy_s_password(self, folder, monkeypatch):
        address = f"http://jane:{SECRET}@proxy.invalid:3128"

        def refuse(*_: Any, **__: Any) -> None:
            raise OSError(f"no way through {address}")

        monkeypatch.setenv("HTTPS_PROXY", address)
        monkeypatch.setattr(loading.AutoConfig, "from_pretrained", refuse)
        with pytest.raises(GlimpError) as caught:
            load(folder)
        assert "no way through" in str(caught.value)
        assert SECRET not in self.everything(caught.value)

    def test_nor_in_a_pickle(self):
        backend = HuggingFaceBackend("org/model", token=SECRET, revision="v2")
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            stored = pickle.dumps(backend, protocol)
            assert SECRET.encode() not in stored
            again = pickle.loads(stored)._source()
            assert (again.model, again.revision, again.token) == ("org/model", "v2", None)
        assert copy.copy(backend) is copy.deepcopy(backend) is backend
        assert backend._source().token.get_secret_value() == SECRET

    def test_a_loaded_model_cannot_be_pickled(self, folder):
        backend = load(folder, token=SECRET)
        try:
            with pytest.raises(ConfigError, match="a loaded model cannot be pickled"):
                pickle.dumps(backend)
        finally:
            backend.close()

    def test_it_gets_where_it_is_needed(self, folder, monkeypatch):
        seen = []

        def remember(*_: Any, **options: Any) -> None:
            seen.append(options["token"])
            raise OSError("enough")

        monkeypatch.setattr(loading.AutoConfig, "from_pretrained", remember)
        with pytest.raises(ConfigError):
            load(folder, token=SECRET)
        assert seen == [SECRET]


class TestShortForms:
    @pytest.fixture(autouse=True)
    def _nothing_shared(self, monkeypatch):
        monkeypatch.setattr(model_strings, "_backends", {})

    @pytest.mark.parametrize(
        ("form", "name"),
        [
            ("hf:Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
            ("hf:gpt2", "gpt2"),
            ("hf:/models/qwen3-0.6b/", "qwen3-0.6b"),
            ("hf:~/models/qwen3-0.6b", "qwen3-0.6b"),
            ("hf:/models/small-q4.gguf", "small-q4"),
            ("hf:org/repo/small-q4.gguf", "small-q4"),
        ],
    )
    def test_a_form_is_a_backend_with_a_short_name(self, form, name):
        backend = model_strings.parse(form)
        assert isinstance(backend, HuggingFaceBackend)
        assert backend.name == name

    @pytest.mark.parametrize("form", ["hf:", "hf", "huggingface:org/model"])
    def test_for_anything_else_the_error_lists_what_is_accepted(self, form):
        with pytest.raises(
            ConfigError, match=r"small is .*which is not a model string.*'hf:ORG/MODEL'"
        ):
            model_strings.parse(form, role="small")

    def test_places(self, folder, tmp_path):
        gguf = tmp_path / "small-q4.gguf"
        gguf.write_bytes(b"GGUF")

        def located(model: str, **options: Any) -> Any:
            return loading._locate(Source(model, **options))

        assert located("Qwen/Qwen3-0.6B") == ("Qwen/Qwen3-0.6B", None)
        assert located("gpt2") == ("gpt2", None)
        assert located("org/repo-GGUF/sub.Q4_K_M.gguf") == ("org/repo-GGUF", "sub.Q4_K_M.gguf")
        assert located("org/repo", gguf_file="a.gguf") == ("org/repo", "a.gguf")
        assert located(str(folder)) == (str(folder), None)
        assert located(str(gguf)) == (str(tmp_path), "small-q4.gguf")
        assert located(str(tmp_path), gguf_file="small-q4.gguf") == (
            str(tmp_path),
            "small-q4.gguf",
        )

    def test_a_home_folder_is_understood(self, folder, monkeypatch):
        monkeypatch.setenv("HOME", str(folder.parent))
        assert loading._locate(Source("~/tiny-one")) == (str(folder), None)

    def test_a_form_named_twice_is_one_model(self, folder, capsys):
        form = f"hf:{folder}"
        one = GlimpRouter(form, form, temperature=0, max_thinking_tokens=10, max_tokens=3)
        two = GlimpRouter(form, form, temperature=0)
        assert one.small is one.large is two.small
        assert one.run("is it?").trace.strategy == "in_process"
        assert capsys.readouterr().err.count("loaded tiny-one") == 1
        one.close()
        one.run("is it?")  # opened again
        one.close()

    def test_another_form_is_another_model(self, folder):
        router = GlimpRouter(f"hf:{folder}", f"hf:{folder}/")
        assert router.small is not router.large
