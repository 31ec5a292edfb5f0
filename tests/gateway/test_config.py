"""Configuration: what loads, what is refused with its line, and where secrets come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field

from backends.base import Options
from gateway.config import Config, ConfigError, load, loads
from gateway.core.routing import Zone
from gateway.limits.keys import digest_of

DIGEST = "sha256:" + digest_of("x")
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


class PlainOptions(Options):
    model: str = "m"
    base_url: str = "http://x"
    api_key: str = ""


class Plain:
    """As much of a backend as a configuration looks at."""

    options_model: ClassVar[type[Options]] = PlainOptions

    @classmethod
    def parts(cls, options: Options) -> tuple[str, ...]:
        return ()


class PairOptions(Options):
    of: tuple[str, ...]


class Pair:
    options_model: ClassVar[type[Options]] = PairOptions

    @classmethod
    def parts(cls, options: Options) -> tuple[str, ...]:
        assert isinstance(options, PairOptions)
        return options.of


class Few:
    """Takes at least two."""

    class Two(Options):
        of: tuple[str, ...] = Field(min_length=2)

    options_model: ClassVar[type[Options]] = Two

    @classmethod
    def parts(cls, options: Options) -> tuple[str, ...]:
        return ()


KINDS = {
    "few": f"{__name__}:Few",
    "openai": f"{__name__}:Plain",
    "llama_cpp": f"{__name__}:Plain",
    "speculative": f"{__name__}:Pair",
    "broken": "tests.fakes.no_such_module:Nothing",
}


def read(text: str, env: dict[str, str] | None = None, folder: Path = Path()) -> Config:
    return loads(text, env=env or {}, kinds=KINDS, source="t.yaml", folder=folder)


def problems(text: str, env: dict[str, str] | None = None) -> list[str]:
    """Each problem as `line:column: path: message`."""
    with pytest.raises(ConfigError) as caught:
        read(text, env)
    return [line.removeprefix("t.yaml:") for line in str(caught.value).splitlines()]


def test_nothing_configured() -> None:
    """An empty text is the defaults: loopback, 8 MiB, public, no keys."""
    config = read("")
    assert (config.server.host, config.server.port) == ("127.0.0.1", 8080)
    assert config.server.max_body == 8 * 1024 * 1024
    assert config.privacy.default is Zone.PUBLIC
    assert (dict(config.upstreams), dict(config.callers), dict(config.aliases)) == ({}, {}, {})


def test_units() -> None:
    """Sizes are bytes and durations seconds, written as numbers or with a unit."""
    config = read("{server: {deadline: 200ms, max_body: 512}, memory: {budget: 1.5GiB}}")
    assert config.server.deadline == pytest.approx(0.2)
    assert config.server.max_body == 512
    assert config.memory.budget == 3 * 2**29
    assert read("cache: {exact: {memory: 1MB, ttl: 2h}}").cache.exact.ttl == 7200


def test_code_and_text_go_through_one_door() -> None:
    """`Config.build` makes what the same sections in a file make, and refuses the same."""
    config = Config.build(
        kinds=KINDS,
        upstreams={"a": {"kind": "openai", "zone": "organisation"}},
        models={"m": {"candidates": ["a"], "deadline": "5s"}},
        privacy={"default": "organisation"},
    )
    text = """
upstreams: {a: {kind: openai, zone: organisation}}
models: {m: {candidates: [a], deadline: 5s}}
privacy: {default: organisation}
"""
    assert config == read(text)
    with pytest.raises(ConfigError, match=r"^upstreams\.a\.kind: unknown kind 'opnai'; did you"):
        Config.build(kinds=KINDS, upstreams={"a": {"kind": "opnai"}})
    with pytest.raises(ConfigError, match="unknown section 'modles'; did you mean 'models'"):
        Config.build(modles={})


TWO = "upstreams: {a: {kind: openai}, b: {kind: openai}}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("servr: {}", "1:1: servr: unknown section 'servr'; did you mean 'server'?"),
        ("server:\n  prot: 1", "2:3: server.prot: unknown key 'prot'; did you mean 'port'?"),
        ("server: {port: 99999}", "1:16: server.port: should be less than or equal to 65535"),
        (
            "upstreams: {a: {kind: openai}, r: {kind: few, of: [a]}}",
            "1:51: upstreams.r.of: should have at least 2 items, not 1",
        ),
        ("server: 3", "1:9: server: expects a mapping with the keys"),
        ("[]", "1:1: a configuration is a mapping with the keys"),
        ("upstreams:\n  a: {kind: opnai}", "2:13: upstreams.a.kind: unknown kind 'opnai'; did"),
        ("upstreams:\n  a: {zone: public}", "2:6: upstreams.a.kind: an upstream needs a kind"),
        ("upstreams: {a: {kind: openai, zone: x}}", "1:37: upstreams.a.zone: a zone is one of"),
        (
            "upstreams: {a: {kind: openai, modle: x}}",
            "1:31: upstreams.a.modle: unknown key 'modle'; did you mean 'model'?",
        ),
        (
            "upstreams: {a: {kind: openai, price: {inptu: 1, input: 1, output: 1}}}",
            "1:39: upstreams.a.price.inptu: unknown key 'inptu'; did you mean 'input'?",
        ),
        (
            "upstreams: {a: {kind: openai, price: {input: 1}}}",
            "1:38: upstreams.a.price: a price per token needs both input and output",
        ),
        ("upstreams: {a: {kind: broken}}", "1:23: upstreams.a.kind: 'broken' cannot be used here"),
        ("upstreams: {a b: {kind: openai}}", "1:13: upstreams.a b: a name has letters"),
        (
            TWO + "models: {auto: {candidates: [a, bb]}}",
            "2:33: models.auto.candidates[1]: unknown upstream 'bb'; did you mean 'b'?",
        ),
        (TWO + "models: {m: {candidates: []}}", "2:26: models.m.candidates: "),
        (TWO + "models: {m: {candidates: [a, a]}}", "2:30: models.m.candidates[1]: 'a' is listed"),
        (TWO + "models: {a: {candidates: [b]}}", "2:10: models.a: 'a' is an upstream already"),
        (
            TWO + "models: {m: {candidates: a, policy: [rule]}}",
            "2:38: models.m.policy[0]: unknown policy 'rule'; did you mean 'rules'?",
        ),
        (
            TWO + "rules:\n- name: r\n  when: {promt_tokens: {gt: 1}}\n  use: a",
            "4:10: rules[0].when.promt_tokens: unknown fact 'promt_tokens'; did you mean",
        ),
        (
            TWO + "rules:\n- {name: r, use: aa}",
            "3:18: rules[0].use: no upstream or alias is called 'aa'; did you mean 'a'?",
        ),
        ("privacy: {detect: {keys: here}}", "1:26: privacy.detect.keys: a zone is one of machine"),
        ("privacy: {detect: {kyes: machine}}", "1:20: privacy.detect.kyes: unknown detector"),
        ("privacy: {hosts: [a b]}", "1:18: privacy.hosts: 'a b' is no domain"),
        ("privacy: {hook: {url: 'http://10.0.0.9:80/'}}", "1:23: privacy.hook.url: a hook reads"),
        ("privacy: {hook: {python: 'nowhere:f'}}", "1:26: privacy.hook.python: cannot import"),
        ("privacy: {hook: {}}", "1:17: privacy.hook: a hook has either url or python"),
        ("privacy: {detect: [kyes]}", "1:20: privacy.detect[0]: unknown detector 'kyes'; did"),
        ("cache: {semantic: on}", "1:19: cache.semantic: the semantic cache comes with a later"),
        ("cache: {exact: {redis: host}}", "1:24: cache.exact.redis: expects redis://"),
        ("memory: {budget: 8 GiBi}", "1:18: memory.budget: a size is a number of bytes"),
        ("server: {deadline: 0}", "1:20: server.deadline: should be greater than 0"),
        ("keys: [{digest: tdm-secret}]", "1:17: keys[0].digest: a digest is sha256: and 64 hex"),
        (
            f'keys: [{{digest: "{DIGEST}", models: [atuo]}}]',
            "models[0]: unknown upstream or alias 'atuo'",
        ),
        (
            f'keys:\n- digest: "{DIGEST}"\n- digest: "{DIGEST}"',
            "3:11: keys[1].digest: this key is in the list already",
        ),
        ("server: {port: 1, port: 2}", "1:19: server.port: 'port' is here twice, first in line 1"),
        ("server: !!python/name:os.system {}", "1:9: server: tags are not supported"),
        ("a: &x {}\nserver: {<<: *x}", "2:10: server.<<: merge keys (<<) are not supported"),
        ("server: {port: 1", "1:17: not YAML: "),
        ("server: {}\n---\nserver: {}", "2:1: not YAML: "),
        ("server: \x07", "1:9: not YAML: a control character"),
        ('server: "\\UFFFFFFFF"', "1:1: not YAML: an escape that is no character"),
        ('server: {host: "\\uD800"}', "1:16: server.host: half of a surrogate pair"),
        ("? [1]\n: 2", "1:3: a key is text"),
    ],
)
def test_a_mistake_has_its_line(text: str, expected: str) -> None:
    """Line, column, path, and what to write instead."""
    found = problems(text)
    assert any(expected in line for line in found), found


def test_everything_wrong_is_told_at_once() -> None:
    """In the text's order, so that one edit mends them all."""
    text = """
server: {prot: 1}
upstreams:
  a: {kind: openai, zone: moon}
  b: {kind: opnai}
rules:
  - {name: r, use: b, locality: mars}
keys: {}
"""
    found = problems(text)
    assert [line.split(":")[0] for line in found] == ["2", "4", "5", "7", "8"]


def test_yaml_as_people_mean_it() -> None:
    """`no`, `on` and `22:30` stay text, and dates too: only 1.2's few types are types."""
    text = TWO + "rules: [{name: r, when: {tenant: {in: [no, on, 22:30, 2026-08-01]}}, use: a}]"
    rule = read(text).rules[0]
    assert all(rule.when.matches({"tenant": each}) for each in ("no", "on", "22:30", "2026-08-01"))


def test_an_anchor_inside_itself_ends() -> None:
    """And so does a short text that stands for a huge one."""
    assert "too many values, or nested too deep" in " ".join(problems("server: &a [*a]"))
    bomb = "a0: &a0 [x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
    )
    assert "too many values" in " ".join(problems(bomb))
    assert "nest at most" in " ".join(problems("[" * 5000))


def test_references() -> None:
    """${NAME}, ${NAME:-default}, $${ and file: anywhere but in rules."""
    text = """
server: {host: "${HOST:-::1}", port: "${PORT}"}
upstreams: {a: {kind: openai, base_url: "http://${BOX:-box}:8000", model: "$${x}"}}
rules: [{name: r, when: {model: {eq: "${PORT}"}}, use: a}]
"""
    config = read(text, {"PORT": "9000", "BOX": ""})
    assert (config.server.host, config.server.port) == ("::1", 9000)
    options = config.upstreams["a"]
    assert isinstance(options, PlainOptions)
    assert (options.base_url, options.model) == ("http://box:8000", "${x}")
    assert config.rules[0].when.matches({"model": "${PORT}"})


def test_a_variable_cannot_add_a_key() -> None:
    """References are expanded after parsing: a variable's text is only ever a value."""
    config = read('server: {host: "${H}"}', {"H": "x, port: 1}\nkeys: []"})
    assert config.server.host == "x, port: 1}\nkeys: []"
    assert config.server.port == 8080


def test_a_missing_variable_is_named() -> None:
    """With its line, and once."""
    found = problems('upstreams: {a: {kind: openai, api_key: "${GROQ_API_KEY}"}}')
    assert len(found) == 1
    assert found[0].startswith("1:40: upstreams.a.api_key: the environment variable GROQ_API_KEY")
    assert "a reference is" in problems('server: {host: "${a b}"}')[0]


def test_a_secret_from_a_file(tmp_path: Path) -> None:
    """file: is relative to the configuration, its last line break is not part of the secret."""
    (tmp_path / "key").write_text("sk-123\n")
    (tmp_path / "c.yaml").write_text("upstreams: {a: {kind: openai, api_key: file:key}}")
    options = load(tmp_path / "c.yaml", {}, KINDS).upstreams["a"]
    assert isinstance(options, PlainOptions)
    assert options.api_key == "sk-123"
    assert "cannot read 'file:none'" in problems("server: {host: file:none}")[0]


@pytest.mark.parametrize(
    "text",
    [
        "upstreams: {a: {kind: openai, api_key: sk-literal}}",
        'upstreams: {a: {kind: openai, api_key: "sk-literal${X:-}"}}',
        'upstreams: {a: {kind: openai, api_key: "${X:-sk-literal}"}}',
        'cache: {exact: {redis: "redis://:sk-literal@host/0"}}',
        "cache: {exact: {secret: sk-literal}}",
    ],
)
def test_a_literal_secret_is_refused(text: str) -> None:
    """A secret in the file itself is an error, and is not repeated in it."""
    found = problems(text)
    assert "must not be in the file itself" in found[0]
    assert "sk-literal" not in "\n".join(found)


def test_no_secret_in_an_error_or_a_repr() -> None:
    """What came from outside is not said again, even where it is what is wrong."""
    env = {"S": "sk-canary"}
    text = 'upstreams: {a: {kind: "${S}"}}\ncache: {exact: {redis: "${S}"}}'
    assert "sk-canary" not in "\n".join(problems(text, env))
    good = 'upstreams: {a: {kind: openai, api_key: "${S}"}}\ncache: {exact: {redis: "${R}"}}'
    config = read(good, env | {"R": "redis://:sk-canary@h"})
    assert "sk-canary" not in repr(config)


def test_parts_come_first() -> None:
    """A combined upstream is built after its parts, wherever the file has it."""
    text = """
upstreams:
  both: {kind: speculative, of: [pair, b]}
  pair: {kind: speculative, of: [a, b]}
  a: {kind: openai}
  b: {kind: openai}
"""
    config = read(text)
    assert list(config.upstreams) == ["both", "pair", "a", "b"]
    assert config.build_order == ("a", "b", "pair", "both")


def test_parts_exist_and_make_no_circle() -> None:
    """A part that is not there, and an upstream that is made of itself, have their place."""
    found = problems("upstreams: {a: {kind: openai}, p: {kind: speculative, of: [a, c]}}")
    assert found[0].startswith("1:63: upstreams.p.of[1]: is made of 'c', and no upstream")
    circle = "upstreams: {p: {kind: speculative, of: [q]}, q: {kind: speculative, of: [p]}}"
    assert "made of itself: p → q → p" in problems(circle)[0]


def test_default_aliases() -> None:
    """Without `models`, the tiers have their names; those without an upstream do not exist."""
    text = """
upstreams:
  far: {kind: openai, price: {input: 3, output: 3}}
  pair: {kind: speculative, of: [near, far]}
  cheap: {kind: openai, price: {input: 1, output: 1}}
  near: {kind: llama_cpp, zone: machine}
"""
    config = read(text)
    assert {name: alias.candidates for name, alias in config.aliases.items()} == {
        "auto": ("near", "pair", "far", "cheap"),
        "auto:fast": ("near", "pair", "far", "cheap"),
        "auto:cheap": ("near", "cheap", "far", "pair"),
        "auto:quality": ("far", "cheap", "pair", "near"),
        "local": ("near",),
        "cloud": ("far", "cheap"),
        "tandem": ("pair",),
    }
    assert set(read("upstreams: {a: {kind: openai}}").aliases) == {
        "auto",
        "auto:fast",
        "auto:cheap",
        "auto:quality",
        "cloud",
    }


def test_a_configured_name_wins_over_a_default() -> None:
    """An alias or an upstream may be called `auto` or `local`."""
    text = "upstreams: {local: {kind: openai}, b: {kind: openai}}\nmodels: {auto: {candidates: b}}"
    config = read(text)
    assert config.aliases["auto"].candidates == ("b",)
    assert "local" not in config.aliases


def test_reach_follows_the_alias() -> None:
    """A `use:` rule widens an alias that has the rules policy, never a pin or another alias."""
    text = (
        TWO
        + """
models:
  ruled: {candidates: [a]}
  plain: {candidates: [a], policy: static}
rules: [{name: r, use: b}]
"""
    )
    config = read(text)
    assert config.reach("ruled", {}, ("a",)) == ("a", "b")
    assert config.reach("plain", {}, ("a",)) == ("a",)
    assert config.reach(None, {}, ("a",)) == ("a",)


def test_rule_headers() -> None:
    """The headers that facts must be made of are those that some rule names."""
    text = TWO + "rules: [{name: r, when: {header.X-Team: a}, locality: machine}]"
    assert read(text).rule_headers == {"x-team"}


def test_keys_become_callers() -> None:
    """By digest, with the first 8 digits as their name; without `models`, everything."""
    text = (
        TWO
        + f"""
keys:
  - {{digest: "{DIGEST}", tenant: web, zone: machine, models: [auto, a]}}
"""
    )
    caller = read(text).callers[DIGEST.removeprefix("sha256:")]
    assert (caller.tenant, caller.zone, caller.key_id) == ("web", Zone.MACHINE, DIGEST[7:15])
    assert caller.models == {"auto", "a"}


def test_a_cache_can_be_off() -> None:
    """`off` is a cache with no room and no Redis."""
    exact = read("cache: {exact: off}").cache.exact
    assert (exact.memory, exact.redis) == (0, "")
    assert read("cache: {semantic: off}").cache.semantic == "off"
    assert read("cache: {semantic: false}").cache.semantic == "off"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing, a folder, or not text: a ConfigError that names it."""
    (tmp_path / "latin").write_bytes(b"server: {host: \xff}")
    for name in ("none.yaml", ".", "latin"):
        with pytest.raises(ConfigError, match="cannot read it"):
            load(tmp_path / name, {}, KINDS)


def test_the_example_loads() -> None:
    """deploy/gateway.example.yaml is a configuration that works, with its variables set."""
    path = Path(__file__).parents[2] / "deploy" / "gateway.example.yaml"
    env = {"GROQ_API_KEY": "gsk_x", "COMPANION_KEY": "tdm-x"}
    config = load(path, env)
    names = ["coder-local", "notes-index", "groq-70b", "gpt", "gpu-box", "gpu-box-2"]
    names += ["gpu-companion", "pair", "box-fanned", "gpt-predicted", "groq-reviewed", "quick"]
    names += ["steady", "thrifty"]
    assert list(config.upstreams) == names
    assert config.build_order.index("pair") > config.build_order.index("gpu-companion")
    assert config.aliases["auto"].candidates == ("coder-local", "pair", "groq-70b")
    facts = {"has_tools": True, "prompt_tokens": 6001, "tenant": "web", "model": "auto"}
    assert config.reach("auto", facts, ("coder-local",)) == ("coder-local", "gpu-box")
    with pytest.raises(ConfigError, match="GROQ_API_KEY is not set"):
        load(path, {"COMPANION_KEY": "tdm-x"})


WORDS = st.sampled_from(
    [
        "server", "upstreams", "models", "rules", "privacy", "memory", "cache", "keys", "a", "auto",
        "kind", "openai", "speculative", "of", "zone", "machine", "price", "candidates", "policy",
        "name", "when", "use", "locality", "all", "not", "model", "regex", "(", "exact", "detect",
        "digest", "${A}", "${", "file:x", "redis://:p@h", "http://[", "-1", "1e999", "9" * 20,
    ]
)  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), WORDS, st.text(max_size=5)
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)
SECTIONS = ["server", "upstreams", "models", "rules", "privacy", "memory", "cache", "keys"]


@patient
@given(sections=st.dictionaries(st.sampled_from(SECTIONS), TREES))
def test_no_data_raises_anything_else(sections: dict[str, Any]) -> None:
    """Whatever a section holds, the outcome is a Config or a ConfigError with problems."""
    try:
        Config.build(kinds=KINDS, **sections)
    except ConfigError as error:
        assert error.problems
        assert all(problem.message for problem in error.problems)


@patient
@given(
    text=st.one_of(
        st.text(max_size=40),
        st.lists(
            st.sampled_from([*"{}[]:,-\n &*!|>'\"%#?\\", "&a ", "*a", "!!x ", ": ", "\n  ", "\\u"])
            | WORDS,
            max_size=25,
        ).map("".join),
    )
)
def test_no_text_raises_anything_else(text: str) -> None:
    """Whatever a file holds, the same."""
    try:
        read(text, {"A": "b"})
    except ConfigError as error:
        assert error.problems
        assert str(error)


def test_a_local_model_says_how_it_shares_memory() -> None:
    """Durations as people write them, and a wrong one with its line."""
    text = """
upstreams:
  a: {kind: llama_cpp, model: a.gguf, pin: true, keep_alive: 5m, max_wait: 200ms}
models:
  fine: {candidates: [a], min_bits: 8}
memory: {budget: 2GiB, min_stay: 0}
"""
    config = loads(text, env={})
    options = config.upstreams["a"].model_dump()
    assert (options["pin"], options["preload"]) == (True, None)
    assert (options["keep_alive"], options["max_wait"]) == (300.0, 0.2)
    assert (config.memory.budget, config.memory.min_stay) == (2 << 30, 0)
    assert config.aliases["fine"].min_bits == 8
    with pytest.raises(ConfigError) as caught:
        loads(text.replace("5m", "soon"), env={})
    [problem] = caught.value.problems
    assert (problem.line, problem.path) == (3, "upstreams.a.keep_alive")


BALANCED = (
    "upstreams: {a: {kind: openai}, b: {kind: openai}, c: {kind: openai}, d: {kind: openai}}\n"
)


@pytest.mark.parametrize(
    ("said", "groups"),
    [
        ("auto", None),
        ("off", ()),
        ("[a, b]", ({"a": 1.0, "b": 1.0},)),
        ("{a: 2, b: 0.5}", ({"a": 2.0, "b": 0.5},)),
        ("[[a, b], {c: 3, d: 1}]", ({"a": 1.0, "b": 1.0}, {"c": 3.0, "d": 1.0})),
    ],
)
def test_balance_has_five_forms(said: str, groups: object) -> None:
    """Found by themselves, not at all, in equal shares, by weight, or several groups."""
    text = f"models: {{m: {{candidates: [a, b, c, d], balance: {said}}}}}"
    assert read(BALANCED + text).aliases["m"].balance == groups


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            "[a, bb]",
            "3:7: models.m.balance[1]: 'bb' is not among the candidates; did you mean 'b'?",
        ),
        ("{a: 1, dd: 2}", "3:10: models.m.balance.dd: 'dd' is not among the candidates; did you"),
        ("[[a, b], [b, c]]", "3:13: models.m.balance[1][0]: 'b' is in a group already"),
        ("[a]", "3:3: models.m.balance: a group to balance has at least two candidates"),
        ("{a: 0, b: 1}", "3:3: models.m.balance: a weight is a number from 0.001 to 1000"),
        ("{a: x, b: 1}", "3:3: models.m.balance: a weight is a number from 0.001 to 1000"),
        ("even", "3:3: models.m.balance: balance is auto, off, a list of candidates"),
        ("[[a, b], 3]", "3:3: models.m.balance: balance is auto, off, a list of candidates"),
        ("3", "3:3: models.m.balance: balance is auto, off, a list of candidates"),
    ],
)
def test_a_wrong_balance_is_told_with_its_place(said: str, expected: str) -> None:
    """A name that is no candidate, a lonely group, a weight of nothing: each at its line."""
    text = f"models: {{m: {{candidates: [a, b, c, d], balance:\n  {said}}}}}"
    (problem,) = problems(BALANCED + text)
    assert problem.startswith(expected)
