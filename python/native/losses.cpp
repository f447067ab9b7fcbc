// The losses of trainer/token_loss.h for Python: each gives its value and its gradients.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "core/ops/ops.h"
#include "python/native/bindings.h"
#include "trainer/token_loss.h"

namespace py = pybind11;

namespace bessemer::python {
namespace {

/// A column of tokens (or rewards) as the losses read it; empty where it is None.
struct Column {
  Tensor tensor;
  explicit Column(const Tensor& given)
      : tensor(given.defined() ? contiguous(cast(given.detach(), Dtype::f32)) : Tensor()) {}
  operator std::span<const float>() const {
    return tensor.defined() ? tensor.values<float>() : std::span<const float>();
  }
};

/// Where sequences lie and what is in the loss; mask None: every token.
struct Tokens {
  Tensor offsets, mask;
  Tokens(const Tensor& given_offsets, const Tensor& given_mask, const Tensor& like)
      : offsets(contiguous(cast(given_offsets, Dtype::i64))),
        mask(given_mask.defined() ? contiguous(cast(given_mask, Dtype::u8))
                                  : Tensor::full({like.numel()}, 1, Dtype::u8)) {}
  TokenSpan span() const { return {offsets.values<int64_t>(), mask.values<uint8_t>()}; }
  double active() const { return static_cast<double>(active_tokens(span())); }
};

Tensor like(const std::vector<float>& values, const Tensor& shape) {
  return Tensor::from(std::span<const float>(values), shape.sizes());
}

/// One of an enumeration's values by its name.
template <class Enum>
Enum named(const char* what, const std::string& name,
           std::initializer_list<std::pair<const char*, Enum>> known) {
  std::vector<std::string> names;
  for (const auto& [text, value] : known) {
    if (name == text) return value;
    names.emplace_back(text);
  }
  fail<ValueError>("unknown ", what, " '", name, "'", did_you_mean(name, names));
}

}  // namespace

void bind_losses(py::module_& m) {
  using Vector = std::vector<float>;
  m.def("_nll_loss", [](const Tensor& log_prob, const Tensor& offsets, const Tensor& mask,
                        std::optional<double> denominator) {
    const Tokens tokens(offsets, mask, log_prob);
    Vector gradient;
    const double loss =
        nll_loss(tokens.span(), Column(log_prob), denominator.value_or(tokens.active()), gradient);
    return std::pair(loss, like(gradient, log_prob));
  });
  m.def("_reward_loss", [](const Tensor& chosen, const Tensor& rejected, const Tensor& margin,
                           double center) {
    Vector d_chosen, d_rejected;
    const RewardLoss loss = reward_loss(Column(chosen), Column(rejected), Column(margin), center,
                                        static_cast<double>(chosen.numel()), d_chosen, d_rejected);
    return std::tuple(loss.loss, like(d_chosen, chosen), like(d_rejected, rejected));
  });
  m.def("_dpo_loss", [](const Tensor& log_prob, const Tensor& ref_log_prob, const Tensor& offsets,
                        const Tensor& mask, const std::string& loss, double beta,
                        double label_smoothing, bool length_normalize) {
    const Tokens tokens(offsets, mask, log_prob);
    DpoOptions options;
    options.kind = named<DpoKind>(
        "loss", loss,
        {{"sigmoid", DpoKind::sigmoid}, {"ipo", DpoKind::ipo}, {"hinge", DpoKind::hinge}});
    options.beta = beta;
    options.label_smoothing = label_smoothing;
    options.reference_free = !ref_log_prob.defined();
    options.length_normalize = length_normalize;
    Vector gradient;
    const DpoLoss out = dpo_loss(tokens.span(), Column(log_prob), Column(ref_log_prob), options,
                                 static_cast<double>(tokens.span().sequences()) / 2, gradient);
    return std::pair(out.loss, like(gradient, log_prob));
  });
  m.def(
      "_policy_loss",
      [](const Tensor& log_prob, const Tensor& old_log_prob, const Tensor& advantage,
         const Tensor& ref_log_prob, const Tensor& offsets, const Tensor& mask, double clip_range,
         std::optional<double> clip_range_high, std::optional<double> dual_clip,
         const std::string& aggregation, double max_tokens, double kl_coef, const std::string& kl) {
        const Tokens tokens(offsets, mask, log_prob);
        TokenPolicyOptions options;
        options.clip_low = clip_range;
        options.clip_high = clip_range_high.value_or(clip_range);
        options.dual_clip = dual_clip;
        options.aggregation = named<Aggregation>("aggregation", aggregation,
                                                 {{"token_mean", Aggregation::token_mean},
                                                  {"sequence_mean", Aggregation::sequence_mean},
                                                  {"constant", Aggregation::constant}});
        options.max_tokens = max_tokens;
        options.kl_coef = kl_coef;
        options.kl = named<KlEstimator>(
            "kl", kl, {{"k1", KlEstimator::k1}, {"k2", KlEstimator::k2}, {"k3", KlEstimator::k3}});
        Vector gradient;
        const TokenPolicyLoss out =
            token_policy_loss(tokens.span(), Column(log_prob), Column(old_log_prob),
                              Column(ref_log_prob), Column(advantage), options, {}, gradient);
        return std::pair(out.loss, like(gradient, log_prob));
      });
  m.def("_value_loss", [](const Tensor& value, const Tensor& old_value, const Tensor& returns,
                          const Tensor& offsets, const Tensor& mask, double clip_range) {
    const Tokens tokens(offsets, mask, value);
    Vector gradient;
    const double loss = token_value_loss(tokens.span(), Column(value), Column(old_value),
                                         Column(returns), clip_range, tokens.active(), gradient);
    return std::pair(loss, like(gradient, value));
  });
  m.def("_group_advantages", [](const Tensor& rewards, int64_t size, const std::string& scale) {
    const auto kind = named<AdvantageScale>("scale", scale,
                                            {{"group", AdvantageScale::group},
                                             {"none", AdvantageScale::none},
                                             {"batch", AdvantageScale::batch},
                                             {"leave_one_out", AdvantageScale::leave_one_out}});
    return like(group_advantages(Column(rewards), size, kind).advantage, rewards);
  });
  m.def("_token_gae", [](const Tensor& reward, const Tensor& value, const Tensor& offsets,
                         const Tensor& mask, double gamma, double lambda) {
    const Tokens tokens(offsets, mask, value);
    Vector advantage, returns;
    token_gae(tokens.span(), Column(reward), Column(value), gamma, lambda, advantage, returns);
    return std::pair(like(advantage, value), like(returns, value));
  });
}

}  // namespace bessemer::python
