"""What is kept between calls follows the parameters, however they are changed."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hybrid_encoder import HybridDepthModel
from hybrid_encoder.caching import MAX_WHOLE, TensorCache, fingerprint

IMAGES = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def teacher_update(p: nn.Parameter) -> None:
    p.data.mul_(0.9).add_(torch.full_like(p, 0.01), alpha=0.1)


def subtract(p: nn.Parameter) -> None:
    p.data -= 0.01


def copy_into(p: nn.Parameter) -> None:
    p.data.copy_(p.data * 1.1)


def lerp(p: nn.Parameter) -> None:
    p.data.lerp_(torch.ones_like(p), 0.05)


def numpy_view(p: nn.Parameter) -> None:
    p.detach().numpy()[...] *= 1.1


def foreach(p: nn.Parameter) -> None:
    torch._foreach_mul_([p.data], 1.1)


def storage(p: nn.Parameter) -> None:
    torch.frombuffer(memoryview(p.detach().numpy()), dtype=torch.float32).mul_(1.1)  # type: ignore[arg-type]  # a buffer


def replace_data(p: nn.Parameter) -> None:
    p.data = p.data * 1.1


def in_place(p: nn.Parameter) -> None:
    with torch.no_grad():
        p.mul_(1.1)


def negate(p: nn.Parameter) -> None:
    p.data.neg_()


def swap_rows(p: nn.Parameter) -> None:
    p.data[[0, 1]] = p.data[[1, 0]]


def fused_step(p: nn.Parameter) -> None:
    p.grad = torch.ones_like(p)
    torch.optim.Adam([p], lr=0.01, fused=True).step()
    p.grad = None


CHANGES = [
    teacher_update, subtract, copy_into, lerp, numpy_view, foreach, storage, replace_data, in_place, negate, swap_rows,
    fused_step,
]  # fmt: skip


@pytest.fixture(scope="module")
def tiny() -> HybridDepthModel:
    return HybridDepthModel.from_pretrained("tiny")


@pytest.fixture
def model(tiny: HybridDepthModel) -> HybridDepthModel:
    return copy.deepcopy(tiny)


def sources(model: HybridDepthModel) -> dict[str, nn.Parameter]:
    """What kept values are computed from: learned tokens, the text tower, DINO's positions."""
    prompts, spatial = model.encoder.prompts, model.encoder.spatial
    assert prompts is not None and spatial is not None
    return {
        "text": prompts.get_parameter("transformer.resblocks.0.mlp.c_fc.weight"),
        "projection": prompts.get_parameter("text_projection"),
        "words": prompts.get_parameter("token_embedding"),
        "positions": spatial.model.pos_embed,
    }


def predict(model: HybridDepthModel) -> Tensor:
    return model.infer(IMAGES).disparity


def folded(model: HybridDepthModel) -> Tensor:
    model = copy.deepcopy(model)
    model.fold_prompts()
    return predict(model)


@pytest.mark.parametrize("name", ["text", "projection", "words", "positions"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_parameter_is_seen(
    model: HybridDepthModel, change: Callable[[nn.Parameter], None], name: str, tmp_path: Path
) -> None:
    before = predict(model)
    parameter = sources(model)[name]
    old = parameter.detach().clone()
    if change is swap_rows and name == "positions":
        parameter.data[0, [1, 2]] = parameter.data[0, [2, 1]]
    else:
        change(parameter)
    assert not torch.equal(parameter, old)
    after = predict(model)
    fresh = copy.deepcopy(model)  # keeps nothing of the original
    assert torch.equal(after, predict(fresh)) and not torch.equal(after, before)
    with torch.inference_mode():
        assert torch.equal(model(IMAGES), fresh(IMAGES))
    torch.testing.assert_close(folded(model), after, rtol=0, atol=1e-6)


def test_what_is_saved_equals_what_is_in_memory(model: HybridDepthModel, tmp_path: Path) -> None:
    predict(model)
    for parameter in sources(model).values():
        teacher_update(parameter)
    model.save_pretrained(tmp_path)
    assert torch.equal(predict(model), predict(HybridDepthModel.from_pretrained(tmp_path)))


def test_a_mean_teacher_follows_its_student(model: HybridDepthModel) -> None:
    teacher = copy.deepcopy(model).requires_grad_(False)
    for step in range(3):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + 0.01 * step)
            for own, other in zip(teacher.parameters(), model.parameters(), strict=True):
                own.data.mul_(0.5).add_(other.data, alpha=0.5)
        assert torch.equal(predict(teacher), predict(copy.deepcopy(teacher)))


@pytest.mark.slow
def test_a_compiled_model_sees_it_too(model: HybridDepthModel) -> None:
    torch._dynamo.reset()  # it compiles a module's code only so many times, and other tests compile it, too
    compiled = torch.compile(model)
    with torch.no_grad():
        compiled(IMAGES)
        for parameter in sources(model).values():
            teacher_update(parameter)
        torch.testing.assert_close(compiled(IMAGES), copy.deepcopy(model)(IMAGES), rtol=0, atol=1e-5)


class TestFingerprint:
    @pytest.mark.parametrize("size", [1, 7, MAX_WHOLE // 4, MAX_WHOLE // 4 + 1, MAX_WHOLE + 5])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64])
    def test_every_single_bit_counts(self, size: int, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        tensor = torch.randn(size).to(dtype)
        before = fingerprint([tensor])
        raw = tensor.view(torch.uint8)
        for place in {0, len(raw) - 1, *torch.randint(len(raw), (40,)).tolist()}:
            for bit in (0, 7):
                raw[place] ^= 1 << bit
                assert not self.same(before, fingerprint([tensor])), (place, bit)
                raw[place] ^= 1 << bit
        assert self.same(before, fingerprint([tensor]))

    @pytest.mark.parametrize("width", [64, 96, 512, 768, 2048])
    def test_places_count(self, width: int) -> None:
        torch.manual_seed(0)
        rows = torch.randn(2 * MAX_WHOLE // width, width)
        before = fingerprint([rows])
        for one, other in [(0, 1), (3, 5), (0, len(rows) // 2), *torch.randint(len(rows), (40, 2)).tolist()]:
            if one != other:
                rows[[one, other]] = rows[[other, one]]
                assert not self.same(before, fingerprint([rows])), (one, other)
                rows[[one, other]] = rows[[other, one]]
        rows[:, [0, 5]] = rows[:, [5, 0]]
        assert not self.same(before, fingerprint([rows]))

    def test_any_layout(self) -> None:
        flat = torch.randn(2 * MAX_WHOLE + 1)
        odd = flat[1:]  # does not begin at a multiple of 8 bytes
        turned = flat[:-1].view(MAX_WHOLE, 2).T
        for tensor in (odd, turned):
            before = fingerprint([tensor])
            assert self.same(before, fingerprint([tensor.clone()]))
            tensor[..., -1] += 1
            assert not self.same(before, fingerprint([tensor]))

    @staticmethod
    def same(a: list[Tensor], b: list[Tensor]) -> bool:
        return len(a) == len(b) and all(map(torch.equal, a, b))


class TestCache:
    def test_the_same_numbers_are_computed_once(self) -> None:
        cache, calls = TensorCache(2), []
        source = nn.Parameter(torch.ones(3))

        def make() -> Tensor:
            calls.append(1)
            return source * 2

        with torch.no_grad():
            first = cache.get("a", [source], make)
            assert cache.get("a", [source], make) is first and len(calls) == 1
            source.data = source.data.clone()  # other memory, the same numbers
            assert cache.get("a", [source], make) is first and len(calls) == 1
        assert cache.get("a", [source], make).requires_grad and len(calls) == 2  # a gradient must flow

    def test_what_is_kept_in_inference_mode_trains_later(self) -> None:
        cache, source = TensorCache(), nn.Parameter(torch.ones(3))
        with torch.inference_mode():
            kept = cache.get("a", [source], lambda: source * 2)
        assert not kept.is_inference()

    def test_copies_keep_nothing(self) -> None:
        cache, source = TensorCache(3), torch.ones(3)
        cache.get("a", [source], lambda: 1)
        for other in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
            assert other.get("a", [source], lambda: 2) == 2

    def test_threads_share_it(self) -> None:
        cache = TensorCache(2)
        wrong: list[Any] = []

        def work(number: int) -> None:
            for turn in range(200):
                key = (number + turn) % 5
                source = torch.full((4,), float(key))
                if cache.get(key, [source], lambda key=key: key) != key:  # type: ignore[misc]
                    wrong.append(key)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
