import pytest
import timm
import torch
from torch.nn.functional import normalize

from stamina_lite.core.settings import AdapterSettings
from stamina_lite.errors import UserError
from stamina_lite.methods.prompts import (
    L2P,
    CODAPrompt,
    ComponentPool,
    DeepL2P,
    DualPrompt,
    ExpertPool,
    MatchingPool,
    PrefixAttention,
    pick,
)

WIDTH = 24
METHODS = [L2P, DeepL2P, DualPrompt, CODAPrompt]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed))


def make_vit(depth=5, **options):
    """A real ViT of five tokens a picture, frozen; no weight is left at a start that hides what it does."""
    shape = {"img_size": 16, "patch_size": 8, "embed_dim": WIDTH, "depth": depth, "num_heads": 3, "num_classes": 0}
    vit = timm.create_model("vit_tiny_patch16_224", **shape, **options).eval().requires_grad_(False)
    draws = generator(1)
    for parameter in vit.parameters():
        parameter.normal_(std=0.3, generator=draws)
    return vit


def make_pool(method, tasks=5):
    return method(AdapterSettings()).prompts(WIDTH, 5, tasks, generator())


def small_pool(kind, seed=0):
    """Pools of few and short prompts, three tasks, of a ViT of five blocks."""
    draws = generator(seed)
    return {
        MatchingPool: lambda: MatchingPool((0, 3), 7, 4, 5, WIDTH, draws),
        ExpertPool: lambda: ExpertPool((0, 1), (2, 4), (2, 4), 3, WIDTH, draws),
        ComponentPool: lambda: ComponentPool((0, 3), 4, 6, 3, WIDTH, draws),
    }[kind]()


def features(vit, images, prefixes):
    for layer, prefix in prefixes.items():
        vit.blocks[layer].attn.prefix = prefix
    return vit(images)


def learn(pool, task, steps=2):
    """Train a task as a trainer does, on a loss without sense; returns the ViT it was trained in."""
    vit = make_vit()
    for layer in pool.layers:
        vit.blocks[layer].attn = PrefixAttention(vit.blocks[layer].attn)
    images, wanted = noise(6, 3, 16, 16, seed=task), noise(6, WIDTH, seed=task)
    query = vit(images)
    pool.begin(task)
    optimizer = torch.optim.AdamW([p for p in pool.parameters() if p.requires_grad], lr=0.1, weight_decay=0)
    for _ in range(steps):
        loss = (features(vit, images, pool.prefixes(query, training=True)) * wanted).sum()
        loss = loss if pool.loss is None else loss + pool.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return vit


def same(prefixes, others):
    return prefixes.keys() == others.keys() and all(
        torch.equal(a, b) for layer in prefixes for a, b in zip(prefixes[layer], others[layer], strict=True)
    )


def copies(parts):
    return [part.detach().clone() for part in parts]


@pytest.mark.parametrize("options", [{}, {"qk_norm": True, "scale_attn_norm": True}])
def test_prefix_attention_is_softmax_over_keys_and_values_by_hand(options):
    stock = make_vit(2, **options).double().blocks[1].attn
    x, P_k, P_v = noise(2, 5, WIDTH).double(), noise(2, 3, WIDTH, seed=1).double(), noise(2, 3, WIDTH, seed=2).double()
    attention = PrefixAttention(stock)
    attention.prefix = P_k, P_v
    q, k, v = (x @ w.T + b for w, b in zip(stock.qkv.weight.chunk(3), stock.qkv.bias.chunk(3), strict=True))
    k, v = torch.cat([P_k, k], 1), torch.cat([P_v, v], 1)
    heads = []
    for head in range(3):
        own = slice(8 * head, 8 * head + 8)
        scores = stock.q_norm(q[..., own]) @ stock.k_norm(k[..., own]).transpose(1, 2) / 8**0.5
        heads.append(torch.softmax(scores, -1) @ v[..., own])
    expected = stock.proj(stock.norm(torch.cat(heads, -1)))
    assert torch.allclose(attention(x), expected, atol=1e-12)
    assert not torch.allclose(attention(x), stock(x), atol=1e-2)


def test_without_a_prefix_attention_is_the_stock_one_and_with_it_the_vit_answers_otherwise():
    vit, images = make_vit(2), noise(3, 3, 16, 16)
    before = vit(images)
    vit.blocks[1].attn = PrefixAttention(vit.blocks[1].attn)
    assert torch.equal(vit(images), before)
    vit.blocks[1].attn.prefix = noise(3, 2, WIDTH), noise(3, 2, WIDTH, seed=1)
    assert not torch.allclose(vit(images), before, atol=1e-2)


def test_a_mask_is_passed_on_without_a_prefix_and_refused_with_one():
    stock, x = make_vit(2).blocks[0].attn, noise(2, 5, WIDTH)
    attention, mask = PrefixAttention(stock), torch.ones(5, 5, dtype=torch.bool).tril()
    assert torch.equal(attention(x, mask), stock(x, mask)) and not torch.allclose(stock(x, mask), stock(x), atol=1e-2)
    attention.prefix = noise(2, 2, WIDTH), noise(2, 2, WIDTH)
    with pytest.raises(ValueError, match="takes no mask"):
        attention(x, mask)


@pytest.mark.parametrize(
    "method, lengths, stored, trained",
    [
        (L2P, {0: 50}, 30 * 21, 30 * 21),
        (DeepL2P, dict.fromkeys(range(5), 50), 5 * 30 * 21, 5 * 30 * 21),
        (DualPrompt, {0: 3, 1: 3, 2: 10, 3: 10, 4: 10}, 2 * 6 + 3 * 5 * 21, 2 * 6 + 3 * 21),
        (CODAPrompt, dict.fromkeys(range(5), 4), 5 * 100 * 10, 5 * 20 * 10),
    ],
)
def test_sizes_of_the_published_pools(method, lengths, stored, trained):
    pool = make_pool(method)
    pool.begin(2)
    prefixes = pool.prefixes(noise(4, WIDTH), training=True)
    expected = {layer: (torch.Size([4, length, WIDTH]),) * 2 for layer, length in lengths.items()}
    assert {layer: (P_k.shape, P_v.shape) for layer, (P_k, P_v) in prefixes.items()} == expected
    assert pool.layers == list(lengths)
    assert sum(p.numel() for p in pool.parameters()) == stored * WIDTH
    assert sum(p.numel() for p in pool.parameters() if p.requires_grad) == trained * WIDTH


def test_l2p_takes_the_five_nearest_prompts_and_pulls_their_keys():
    """Keys on a circle, at angles that are not in order and of unequal lengths: the cosine alone decides."""
    pool = small_pool(MatchingPool)
    degrees = torch.tensor([[50.0, 10, 170, 30, 90, 70, 120], [170.0, 50, 70, 10, 90, 120, 30]])
    lengths = torch.tensor([1.0, 0.1, 9, 5, 0.5, 2, 7])
    with torch.no_grad():
        pool.K.zero_()
        pool.K[..., 0] = lengths * torch.cos(torch.deg2rad(degrees))
        pool.K[..., 1] = lengths * torch.sin(torch.deg2rad(degrees))
    query = torch.zeros(2, WIDTH)
    query[0, 0] = 3.0  # at 0 degrees
    query[1, 0], query[1, 1] = -2 * 0.75**0.5, 1.0  # at 150
    prefixes = pool.prefixes(query, training=True)
    nearest = {0: ([1, 3, 0, 5, 4], [2, 6, 4, 5, 0]), 3: ([3, 6, 1, 2, 4], [0, 5, 4, 2, 1])}
    for row, layer in enumerate((0, 3)):
        for picture, chosen in enumerate(nearest[layer]):
            P_k = torch.cat([pool.P[row, n, :2] for n in chosen])
            P_v = torch.cat([pool.P[row, n, 2:] for n in chosen])
            assert torch.equal(prefixes[layer][0][picture], P_k) and torch.equal(prefixes[layer][1][picture], P_v)
    angles = torch.deg2rad(torch.tensor([[10.0, 30, 50, 70, 90], [20.0, 30, 60, 80, 100]]))
    expected = 2 * (1 - torch.cos(angles)).sum() / 2  # two layers, the mean of two pictures
    assert pool.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    pool.loss.backward()
    assert (pool.K.grad[0].norm(dim=-1) > 0).all() and pool.P.grad is None
    pool.prefixes(query, training=False)
    assert pool.loss is None


def test_dualprompt_trains_its_own_expert_and_at_test_the_key_chooses_among_tasks_so_far():
    pool = small_pool(ExpertPool)
    pool.begin(2)
    with torch.no_grad():
        for number, key in enumerate(pool.K):
            key.zero_()
            key[:, number] = number + 1.0
    query = torch.zeros(3, WIDTH)
    query[0, :3] = torch.tensor([3.0, 2.0, 0.0])
    query[1, :3] = torch.tensor([1.0, 2.0, 0.0])
    query[2, :3] = torch.tensor([2.0, 1.0, 9.0])  # nearest to task 3, which is to come
    trained = pool.prefixes(query, training=True)
    loss = pool.loss
    tested = pool.prefixes(query, training=False)
    assert pool.loss is None
    for row, layer in enumerate((2, 4)):
        for picture, expert in enumerate((0, 1, 0)):
            for prefixes, number in ((trained, 1), (tested, expert)):
                P = torch.cat([half[picture] for half in prefixes[layer]])
                assert torch.equal(P, pool.E[number][row])
    for row, layer in enumerate((0, 1)):
        assert all(torch.equal(torch.cat([h[n] for h in tested[layer]]), pool.G[row]) for n in range(3))
    cosines = torch.tensor([2 / 13**0.5, 2 / 5**0.5, 1 / 86**0.5])
    assert loss.item() == pytest.approx(2 * (1 - cosines).mean().item(), rel=1e-5)
    loss.backward()
    assert pool.K[1].grad.any() and pool.K[0].grad is None


def test_coda_is_the_weighted_sum_over_components_of_tasks_so_far():
    pool, query = small_pool(ComponentPool), noise(3, WIDTH)
    for task in (1, 2):
        learn(pool, task)
    prefixes = pool.prefixes(query, training=False)
    for row, layer in enumerate((0, 3)):
        for picture, q in enumerate(query):
            p = torch.zeros(6, WIDTH)
            for task in range(2):
                for m in range(4):
                    A, K, P = (parts[task][row, m] for parts in (pool.A, pool.K, pool.P))
                    p += (q * A) @ K / ((q * A).norm() * K.norm()) * P
            P_k, P_v = prefixes[layer]
            assert torch.allclose(P_k[picture], p[:3], atol=1e-5) and torch.allclose(P_v[picture], p[3:], atol=1e-5)
    assert pool.loss is None and same(prefixes, pool.prefixes(query, training=True))
    pool.begin(3)
    assert not same(prefixes, pool.prefixes(query, training=False))


@pytest.mark.parametrize("kind, names", [(ExpertPool, "EK"), (ComponentPool, "AKP")])
def test_a_task_changes_its_own_prompts_and_no_others(kind, names):
    pool = small_pool(kind)
    learn(pool, 1)
    pool.begin(2)
    before = {name: copies(getattr(pool, name)) for name in names}
    learn(pool, 2)
    for name in names:
        past, own, future = (
            (old == new).flatten(1) for old, new in zip(before[name], getattr(pool, name), strict=True)
        )
        assert past.all() and future.all() and not own.all(dim=1).any()
        assert getattr(pool, name)[1].grad.norm(dim=-1).all()  # it reaches every vector


@pytest.mark.parametrize("kind, names", [(MatchingPool, "KP"), (ExpertPool, "G")])
def test_shared_prompts_are_trained_in_every_task(kind, names):
    pool = small_pool(kind)
    for task in (1, 2):
        before = {name: getattr(pool, name).detach().clone() for name in names}
        learn(pool, task)
        assert not any(torch.equal(before[name], getattr(pool, name)) for name in names)


def test_new_components_of_coda_start_orthogonal_to_trained_ones():
    pool = small_pool(ComponentPool)
    learn(pool, 1)
    pool.begin(2)
    for parts in (pool.A, pool.K, pool.P):
        past, new = (part.detach().flatten(2) for part in parts[:2])
        assert torch.allclose(new @ new.mT, torch.eye(4).expand(2, 4, 4), atol=1e-5)
        assert (new @ past.mT).abs().max() < 1e-5
        assert (past @ past.mT - torch.eye(4)).abs().max() > 1e-2  # training has bent them
    before = copies(pool.parameters())
    pool.begin(2)  # once more, as after resuming
    assert all(torch.equal(old, p) for old, p in zip(before, pool.parameters(), strict=True))


def test_components_beyond_the_dimension_keep_unit_length_and_the_first_are_gram_schmidts():
    pool = ComponentPool((0,), 5, 2, 2, 7, generator())
    start = pool.K[0][0].detach().clone()
    pool.begin(1)
    assert torch.allclose(pool.K[0][0, 0], normalize(start[0], dim=0), atol=1e-6)
    second = start[1] - (start[1] @ pool.K[0][0, 0]) * pool.K[0][0, 0]
    assert torch.allclose(pool.K[0][0, 1], normalize(second, dim=0), atol=1e-5)
    pool.begin(2)
    rows = torch.cat([part[0] for part in pool.K])  # 10 of dimension 7
    assert torch.allclose(rows[:7] @ rows[:7].T, torch.eye(7), atol=1e-5)
    assert torch.allclose(rows.norm(dim=1), torch.ones(10), atol=1e-5)
    assert len(rows.detach().unique(dim=0)) == 10


@pytest.mark.parametrize("kind", [MatchingPool, ExpertPool, ComponentPool])
def test_a_state_dict_resumes_a_run_exactly(kind):
    pool, other, query = small_pool(kind), small_pool(kind, seed=1), noise(3, WIDTH)
    learn(pool, 1)
    learn(pool, 2)
    other.begin(1)
    assert not same(pool.prefixes(query, training=False), other.prefixes(query, training=False))
    other = small_pool(kind, seed=1)
    other.load_state_dict(pool.state_dict())
    assert same(pool.prefixes(query, training=False), other.prefixes(query, training=False))
    for p in (pool, other):
        learn(p, 3)
    assert same(pool.prefixes(query, training=False), other.prefixes(query, training=False))
    assert all(torch.equal(a, b) for a, b in zip(pool.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("kind", [MatchingPool, ExpertPool, ComponentPool])
def test_the_vit_stays_as_it_is(kind):
    stock, images = make_vit(), noise(2, 3, 16, 16)
    pool = small_pool(kind)
    vit = learn(pool, 1)
    assert all(not p.requires_grad and p.grad is None for p in vit.parameters())
    prompted = features(vit, images, pool.prefixes(stock(images), training=False))
    assert not torch.allclose(prompted, stock(images), atol=1e-2)
    assert torch.equal(features(vit, images, dict.fromkeys(pool.layers)), stock(images))


@pytest.mark.parametrize("method", METHODS)
def test_a_pool_comes_from_its_generator_alone(method):
    pools = [method(AdapterSettings()).prompts(WIDTH, 5, 2, generator(seed)) for seed in (0, 0, 1)]
    first, again, other = ([*pool.parameters()] for pool in pools)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("method, needed", [(L2P, 1), (DeepL2P, 5), (DualPrompt, 5), (CODAPrompt, 5)])
def test_a_vit_that_is_too_shallow_is_refused(method, needed):
    method = method(AdapterSettings())
    assert method.adapter(None, generator()) is None
    assert max(method.prompts(WIDTH, needed, 2, generator()).layers) == needed - 1
    with pytest.raises(UserError, match=f"{needed} blocks: a ViT of {needed - 1} is too shallow"):
        method.prompts(WIDTH, needed - 1, 2, generator())


def test_more_tasks_than_components_are_refused():
    assert make_pool(CODAPrompt, tasks=100).P[0].shape[1] == 1
    with pytest.raises(UserError, match="100 components for all tasks: 101 tasks are too many"):
        make_pool(CODAPrompt, tasks=101)


def test_gradients_of_prompts_that_pictures_share_are_the_same_every_time_on_several_threads():
    prompts = torch.randn(2, 3, 20, 192, generator=torch.Generator().manual_seed(0), requires_grad=True)
    index = torch.randint(3, (2, 32, 2), generator=torch.Generator().manual_seed(1))
    weights = torch.randn(2, 32, 2, 20, 192, generator=torch.Generator().manual_seed(2))
    threads, found = torch.get_num_threads(), []
    torch.set_num_threads(4)
    try:
        for _ in range(20):
            found.append(torch.autograd.grad((pick(prompts, index) * weights).sum(), prompts)[0])
    finally:
        torch.set_num_threads(threads)
    assert found[0].any() and all(torch.equal(gradient, found[0]) for gradient in found)
    assert torch.equal(pick(prompts, index)[1, 5, 1], prompts[1, index[1, 5, 1]])
