"""Laws of the flow and of its chain."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distill.flows import FlowChain, InverseAutoregressiveFlow, log_softplus
from wavenet.distributions import Gaussian, OutputKind
from wavenet.model import WaveNet
from wavenet.network import AutoregressiveNetwork
from wavenet.sampling import reference

T, HOP, OFFSET = 12, 4, 4
MakeNetwork = Callable[[], AutoregressiveNetwork]


@pytest.fixture
def cond() -> Tensor:
    return torch.randn(2, T // HOP + 2, 3, dtype=torch.float64)


@pytest.fixture
def z() -> Tensor:
    return torch.randn(2, T, dtype=torch.float64)


def _jacobian(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """d function(z)[t] / d z[u] of one clip: (T, T), rows t."""
    return torch.autograd.functional.jacobian(lambda row: function(row[None])[0], at)


def test_loc_and_scale_depend_on_the_noise_before_and_on_nothing_later(
    make_network: MakeNetwork, z: Tensor, cond: Tensor
) -> None:
    flow = InverseAutoregressiveFlow(make_network())
    for output in range(2):
        jacobian = _jacobian(lambda row, which=output: flow.affine(row, cond[:1], OFFSET)[which], z[0])
        assert jacobian.triu().abs().max() == 0
        assert (jacobian.diagonal(-1).abs() > 0).all()  # the sample just before is read


def test_loc_and_scale_of_the_chain_depend_on_the_noise_before_alone(
    make_network: MakeNetwork, z: Tensor, cond: Tensor
) -> None:
    chain = FlowChain([InverseAutoregressiveFlow(make_network()) for _ in range(3)])
    for output in (1, 2):
        jacobian = _jacobian(lambda row, which=output: chain(row, cond[:1], OFFSET)[which], z[0])
        assert jacobian.triu().abs().max() == 0


def test_log_det_of_a_flow_is_that_of_its_jacobian(make_network: MakeNetwork, z: Tensor, cond: Tensor) -> None:
    flow = InverseAutoregressiveFlow(make_network())
    jacobian = _jacobian(lambda row: flow.forward_and_log_det(row, cond[:1], OFFSET)[0], z[0])
    log_det = flow.forward_and_log_det(z[:1], cond[:1], OFFSET)[1]
    torch.testing.assert_close(log_det.sum(), torch.linalg.slogdet(jacobian).logabsdet)
    torch.testing.assert_close(log_det[0], jacobian.diagonal().log())


def test_log_det_of_the_chain_is_that_of_its_jacobian(make_network: MakeNetwork, z: Tensor, cond: Tensor) -> None:
    chain = FlowChain([InverseAutoregressiveFlow(make_network()) for _ in range(3)])
    jacobian = _jacobian(lambda row: chain(row, cond[:1], OFFSET)[0], z[0])
    torch.testing.assert_close(chain(z[:1], cond[:1], OFFSET)[2].sum(), torch.linalg.slogdet(jacobian).logabsdet)


@pytest.mark.parametrize("flows", [1, 2, 4])
def test_the_composed_loc_and_scale_give_the_last_flows_output(
    make_network: MakeNetwork, z: Tensor, cond: Tensor, flows: int
) -> None:
    chain = FlowChain([InverseAutoregressiveFlow(make_network()) for _ in range(flows)])
    x, loc, log_scale = chain(z, cond, OFFSET)
    torch.testing.assert_close(z * log_scale.exp() + loc, x)
    step_by_step = z
    for flow in chain.flows:
        step_by_step, _ = flow.forward_and_log_det(step_by_step, cond, OFFSET)
    torch.testing.assert_close(step_by_step, x)


@pytest.mark.parametrize("keep", [1, 5, 20, 47, 48])
def test_the_end_alone_is_the_end_of_the_whole(make_network: MakeNetwork, keep: int) -> None:
    chain = FlowChain([InverseAutoregressiveFlow(make_network()) for _ in range(3)])
    z, cond = torch.randn(2, 48, dtype=torch.float64), torch.randn(2, 48 // HOP + 2, 3, dtype=torch.float64)
    computed: list[int] = []
    for flow in chain.sequence:
        flow.network.register_forward_pre_hook(lambda _, inputs: computed.append(inputs[0].shape[1]))
    end = chain(z, cond, OFFSET, keep)
    reach = chain.sequence[0].network.receptive_field
    assert computed == [min(48, keep + flows * reach) for flows in (3, 2, 1)]
    for part, whole in zip(end, chain(z, cond, OFFSET), strict=True):
        torch.testing.assert_close(part, whole[:, -keep:])


def test_the_inverse_recovers_the_noise_and_negates_the_log_det(
    make_network: MakeNetwork, z: Tensor, cond: Tensor
) -> None:
    chain = FlowChain([InverseAutoregressiveFlow(make_network()) for _ in range(3)])
    x, _, log_scale = chain(z, cond, OFFSET)
    recovered, log_det = chain.inverse_and_log_det(x, cond, OFFSET)
    torch.testing.assert_close(recovered, z)
    torch.testing.assert_close(log_det, -log_scale)


def _autoregressive_flow(teacher: WaveNet) -> InverseAutoregressiveFlow:
    """The map from a Gaussian teacher's waveform to its noise: z = (x - mu) / s."""
    distribution = teacher.distribution
    assert isinstance(distribution, Gaussian)

    def affine(raw: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_scale = distribution.components(raw)
        return -mean * torch.exp(-log_scale), -log_scale

    return InverseAutoregressiveFlow(teacher.network, reads=distribution.unit, affine=affine)


@pytest.fixture
def gaussian_teacher(make_teacher: Callable[[OutputKind], WaveNet]) -> WaveNet:
    teacher = make_teacher(OutputKind.gaussian).double()
    torch.nn.init.normal_(teacher.network.last.weight, std=0.3)
    return teacher


def test_a_gaussian_teacher_is_a_masked_autoregressive_flow_from_waveform_to_noise(gaussian_teacher: WaveNet) -> None:
    mel = torch.randn(2, 5, 2, dtype=torch.float64)
    x = torch.randn(2, 32, dtype=torch.float64)
    mean, log_scale = gaussian_teacher.distribution.components(gaussian_teacher(x, mel))
    z, log_det = _autoregressive_flow(gaussian_teacher).forward_and_log_det(x, gaussian_teacher.conditioner(mel, None))
    torch.testing.assert_close(z, (x - mean) / log_scale.exp())
    base = -0.5 * z**2 - 0.5 * torch.log(torch.tensor(2 * torch.pi, dtype=torch.float64))
    torch.testing.assert_close(base + log_det, gaussian_teacher.distribution.log_density(gaussian_teacher(x, mel), x))


def test_the_inverse_of_that_flow_is_sequential_sampling(gaussian_teacher: WaveNet) -> None:
    mel = torch.randn(2, 5, 2, dtype=torch.float64)
    noise = torch.randn(2, 32, dtype=torch.float64)
    cond = gaussian_teacher.conditioner(mel, None)
    state = reference.initial_state(gaussian_teacher, batch=2)
    sampled = reference.sample(gaussian_teacher, gaussian_teacher.network.project(cond), noise[..., None], state)
    x, _ = _autoregressive_flow(gaussian_teacher).inverse_and_log_det(noise, cond)
    torch.testing.assert_close(x, sampled)


@given(st.floats(-700, 700))
def test_log_softplus_is_finite_and_right_everywhere(raw: float) -> None:
    at = torch.tensor(raw, dtype=torch.float64, requires_grad=True)
    value = log_softplus(at)
    value.backward()
    assert at.grad is not None and 0 <= at.grad <= 1
    expected = raw if raw < -50 else torch.logaddexp(at.detach(), at.new_zeros(())).log().item()
    assert value.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("raw", [-200.0, -90.0, -31.0, -29.0, 0.0, 200.0])
def test_log_softplus_in_float32_agrees_with_float64(raw: float) -> None:
    single = log_softplus(torch.tensor(raw)).double()
    torch.testing.assert_close(single, log_softplus(torch.tensor(raw, dtype=torch.float64)), rtol=1e-6, atol=1e-6)
