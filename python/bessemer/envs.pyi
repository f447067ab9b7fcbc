"""Types of envs.py, whose classes have other bases where Gymnasium is missing."""

from collections.abc import Sequence
from os import PathLike
from typing import Any, Literal

import gymnasium
from gymnasium.vector import AutoresetMode as AutoresetMode
from gymnasium.vector import VectorEnv as _GymnasiumVectorEnv
from numpy.typing import NDArray

from bessemer._native import EnvCore, VectorEnvCore
from bessemer._native import env_ids as env_ids
from bessemer._native import env_spec as env_spec

RenderMode = Literal["human", "rgb_array"]
Mode = AutoresetMode | Literal["next_step", "same_step", "disabled"]

RENDER_MODES: list[str]

class Env(EnvCore, gymnasium.Env[Any, Any]):
    def __init__(
        self,
        id: str,
        render_mode: RenderMode | None = None,
        max_episode_steps: int | None = None,
        check_actions: bool = True,
        **options: bool | float | str,
    ) -> None: ...
    def render(self) -> Any: ...
    def close(self) -> None: ...

class VectorEnv(VectorEnvCore, _GymnasiumVectorEnv[Any, Any, NDArray[Any]]):
    def __init__(
        self,
        id: str,
        num_envs: int,
        *,
        threads: int = 1,
        autoreset_mode: Mode = ...,
        copy: bool = True,
        render_mode: RenderMode | None = None,
        max_episode_steps: int | None = None,
        episode_statistics: bool = True,
        check_actions: bool = True,
        arithmetic: Literal["lanes", "plain"] = "lanes",
        address: str | None = None,
        keys: str | PathLike[str] | None = None,
        token: str | PathLike[str] | None = None,
        **options: bool | float | str,
    ) -> None: ...
    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]: ...
    def render(self) -> Any: ...
    def close(self, **keywords: Any) -> None: ...

def make(
    id: str,
    *,
    render_mode: RenderMode | None = None,
    max_episode_steps: int | None = None,
    check_actions: bool = True,
    **options: bool | float | str,
) -> Env: ...
def make_vec(
    id: str,
    num_envs: int = 1,
    *,
    threads: int = 1,
    autoreset_mode: Mode = ...,
    copy: bool = True,
    render_mode: RenderMode | None = None,
    max_episode_steps: int | None = None,
    episode_statistics: bool = True,
    check_actions: bool = True,
    arithmetic: Literal["lanes", "plain"] = "lanes",
    **options: bool | float | str,
) -> VectorEnv: ...
def connect(
    address: str,
    id: str,
    num_envs: int = 1,
    *,
    keys: str | PathLike[str] | None = None,
    token: str | PathLike[str] | None = None,
    autoreset_mode: Mode = ...,
    copy: bool = True,
    render_mode: RenderMode | None = None,
    max_episode_steps: int | None = None,
    episode_statistics: bool = True,
    arithmetic: Literal["lanes", "plain"] = "lanes",
    **options: bool | float | str,
) -> VectorEnv: ...
def register_all() -> None: ...
