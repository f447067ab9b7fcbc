// One step of the generator: who computes which rows, the forward pass, the draws.
//
// Sequences are served by age. One that needs a page and finds none takes those of younger ones,
// which wait and are computed again later; so the oldest always gets on, and with it all of them.
#include <algorithm>

#include "rollout/generate_state.h"

namespace bessemer {

using Finish = Completion::Finish;

namespace {

Tensor indices(std::span<const int64_t> values) {
  return Tensor::from(values, {static_cast<int64_t>(values.size())});
}

}  // namespace

bool Generator::step() {
  NoGrad no_grad;
  check_weights();
  const size_t finished = finished_.size();
  Rows rows;
  schedule(rows);
  if (!rows.units.empty()) forward(rows);
  join(rows);
  if (!rows.draws.empty()) sample(rows);
  collect();
  return !rows.units.empty() || rows.joined > 0 || finished_.size() > finished;
}

void Generator::set_version(uint64_t version, uint64_t hash) {
  version_ = version;
  hash_ = hash;
}

/// Weights that changed leave no cache valid.
void Generator::check_weights() {
  uint64_t seen = 0;
  for (const Tensor& weight : weights_) seen = (seen ^ weight.version()) * 0x100000001b3ull + 1;
  if (std::exchange(weights_seen_, seen) == seen) return;
  for (auto& group : groups_) {
    group->drop(cache_);
    for (Sequence& s : group->sequences) {
      counts_.invalidated += s.cached.length() > 0;
      drop(s);
    }
  }
}

/// Takes a sequence's pages away; what was active waits for its turn to be computed again.
void Generator::drop(Sequence& s) {
  s.cached.clear(cache_);
  if (s.state != Sequence::State::active) return;
  s.state = Sequence::State::waiting;
  --active_;
}

/// Frees pages for `asking`, which belongs to sequence `handle` (or the prompt that begins there):
/// first those nobody computes with, then those of the youngest. False: there are none to be had.
bool Generator::evict(const CachedTokens& asking, int64_t handle) {
  for (auto group = groups_.rbegin(); group != groups_.rend(); ++group) {
    Group& g = **group;
    for (Sequence& s : g.sequences) {
      if (s.state == Sequence::State::active || s.cached.pages().empty() || &s.cached == &asking)
        continue;
      drop(s);  // between turns, or waiting for a place
      return true;
    }
    if (g.handle > handle && !g.scheduled && !g.active() && !g.cached.pages().empty()) {
      g.drop(cache_);
      return true;
    }
  }
  for (auto group = groups_.rbegin(); group != groups_.rend(); ++group) {
    auto& sequences = (*group)->sequences;
    for (auto s = sequences.rbegin(); s != sequences.rend() && s->handle > handle; ++s) {
      if (s->state != Sequence::State::active || s->scheduled) continue;
      ++counts_.preempted;
      drop(*s);
      return true;
    }
  }
  // Prompts of completions to come, older ones too: they may be waiting for this one's place.
  for (auto& group : groups_) {
    Group& g = *group;
    if (g.scheduled || g.cached.pages().empty() || &g.cached == &asking) continue;
    g.drop(cache_);
    return true;
  }
  return false;
}

/// Pages for `length` tokens, at the cost of younger sequences.
bool Generator::grow(CachedTokens& cached, int64_t length, int64_t handle) {
  while (!cached.reserve(cache_, length)) {
    if (!evict(cached, handle)) return false;
  }
  return true;
}

/// Whether nobody else holds a page, so that waiting for one is vain.
bool Generator::alone(const CachedTokens& cached) const {
  for (const auto& group : groups_) {
    if (&group->cached != &cached && !group->cached.pages().empty()) return false;
    for (const Sequence& s : group->sequences)
      if (&s.cached != &cached && !s.cached.pages().empty()) return false;
  }
  return true;
}

/// Who computes what: a row for each sequence that decodes, then prompts and whatever must be
/// computed again, oldest first, up to step_tokens.
void Generator::schedule(Rows& rows) {
  for (auto& group : groups_) {
    group->scheduled = false;
    if (group->cached.pages().empty()) group->last_hidden = Tensor();
    for (Sequence& s : group->sequences) s.scheduled = false;
  }
  auto take = [&](Group& g, Sequence* s) {
    Rows::Unit unit{&g, s, 0, 0};
    CachedTokens& cached = unit.cached();
    unit.begin = cached.length();
    unit.count = std::min(unit.length() - unit.begin, options_.step_tokens - rows.count);
    if (unit.count <= 0) return;
    if (!grow(cached, unit.begin + unit.count, s ? s->handle : g.handle)) {
      if (alone(cached)) {
        if (s) return finish(*s, Finish::out_of_pages);
        for (Sequence& waiting : g.sequences)
          if (waiting.needs_prompt()) finish(waiting, Finish::out_of_pages);
        g.drop(cache_);
      } else if (s && unit.length() - unit.begin == 1) {
        ++counts_.preempted;
        drop(*s);
      }
      return;
    }
    (s ? s->scheduled : g.scheduled) = true;
    rows.units.push_back(unit);
    rows.count += unit.count;
  };
  for (auto& group : groups_)
    for (Sequence& s : group->sequences)
      if (s.state == Sequence::State::active && s.length() - s.cached.length() == 1)
        take(*group, &s);
  int64_t places = options_.max_batch - active_;
  for (auto& group : groups_) {
    for (Sequence& s : group->sequences)
      if (s.state == Sequence::State::active && s.length() - s.cached.length() > 1)
        take(*group, &s);
    const int64_t waiting = group->waiting();
    if (waiting == 0 || places <= 0) continue;
    places -= waiting;
    if (!group->last_hidden) take(*group, nullptr);
  }
}

void Generator::forward(Rows& rows) {
  const auto sequences = static_cast<int64_t>(rows.units.size());
  std::vector<int64_t> tokens, positions, slots, queries = {0}, lengths;
  int64_t pages = 1;
  for (const Rows::Unit& unit : rows.units) {
    for (int64_t i = unit.begin; i < unit.begin + unit.count; ++i) {
      tokens.push_back(unit.token(i));
      positions.push_back(i);
      slots.push_back(unit.cached().slot(i));
    }
    queries.push_back(static_cast<int64_t>(tokens.size()));
    lengths.push_back(unit.begin + unit.count);
    pages = std::max(pages, static_cast<int64_t>(unit.cached().pages().size()));
  }
  std::vector<int64_t> table(static_cast<size_t>(sequences * pages), 0);
  for (int64_t i = 0; i < sequences; ++i)
    std::ranges::copy(rows.units[static_cast<size_t>(i)].cached().pages(),
                      table.begin() + i * pages);
  const nn::Paged paged{
      cache_.layers(),  Tensor::from(std::span<const int64_t>(table), {sequences, pages}),
      indices(queries), indices(lengths),
      indices(slots),   indices(positions),
  };
  rows.hidden = decoder_.hidden(indices(tokens), paged);
  ++counts_.steps;
  counts_.computed += rows.count;
  for (size_t i = 0; i < rows.units.size(); ++i) {
    const Rows::Unit& unit = rows.units[i];
    unit.cached().written(unit.begin + unit.count);
    if (unit.begin + unit.count < unit.length()) continue;
    const int64_t last[] = {queries[i + 1] - 1};
    if (unit.sequence) {
      rows.draws.push_back({unit.sequence, last[0]});
    } else {
      unit.group->last_hidden = index_select(rows.hidden, 0, indices(last));
    }
  }
}

/// Waiting sequences whose beginning is in the cache take their places in the batch.
void Generator::join(Rows& rows) {
  for (auto& group : groups_) {
    Group& g = *group;
    int64_t waiting = g.waiting();
    for (Sequence& s : g.sequences) {
      if (active_ >= options_.max_batch) return;
      if (s.state != Sequence::State::waiting) continue;
      if (s.needs_prompt()) {
        if (!g.last_hidden) continue;
        counts_.shared += g.cached.length();
        s.cached = g.cached.share(cache_);
        if (s.tail.empty()) rows.draws.push_back({&s, -1});
        if (--waiting == 0) {
          // Nobody else needs the prompt: its pages are this sequence's own, without a copy. Its
          // last hidden row is still to be drawn from in this step.
          counts_.shared -= g.cached.length();
          g.cached.clear(cache_);
        }
      }
      s.state = Sequence::State::active;
      ++active_;
      ++rows.joined;
    }
  }
}

void Generator::sample(Rows& rows) {
  std::vector<int64_t> picked, source;  // rows of the forward pass; where each draw reads
  std::vector<Group*> prompts;
  for (const Rows::Draw& draw : rows.draws)
    if (draw.row >= 0) picked.push_back(draw.row);
  int64_t next = 0;
  for (const Rows::Draw& draw : rows.draws) {
    if (draw.row >= 0) {
      source.push_back(next++);
      continue;
    }
    const auto known = std::ranges::find(prompts, draw.sequence->group);
    source.push_back(static_cast<int64_t>(picked.size() + (known - prompts.begin())));
    if (known == prompts.end()) prompts.push_back(draw.sequence->group);
  }
  std::vector<Tensor> parts;
  if (!picked.empty()) parts.push_back(index_select(rows.hidden, 0, indices(picked)));
  for (const Group* group : prompts) parts.push_back(group->last_hidden);
  Tensor logits = decoder_.logits(parts.size() == 1 ? parts[0] : concat(parts, 0));
  if (!prompts.empty()) logits = index_select(logits, 0, indices(source));

  const auto n = static_cast<int64_t>(rows.draws.size());
  const Rng rng{options_.seed, Stream::action};
  const Tensor uniform = Tensor::empty({n}), temperature = Tensor::empty({n}),
               top_k = Tensor::empty({n}, Dtype::i64), top_p = Tensor::empty({n});
  for (int64_t i = 0; i < n; ++i) {
    const Sequence& s = *rows.draws[static_cast<size_t>(i)].sequence;
    uniform.data<float>()[i] = uniform_float(rng.at(s.out.sequence, s.draw).word[0]);
    temperature.data<float>()[i] = static_cast<float>(s.sampling->temperature);
    top_k.data<int64_t>()[i] = s.sampling->top_k;
    top_p.data<float>()[i] = static_cast<float>(s.sampling->top_p);
  }
  const auto [token, log_prob] = sample_tokens(logits, uniform, temperature, top_k, top_p);
  for (int64_t i = 0; i < n; ++i)
    accept(*rows.draws[static_cast<size_t>(i)].sequence,
           static_cast<int32_t>(token.data<int64_t>()[i]), log_prob.data<float>()[i]);
}

}  // namespace bessemer
