#include "trainer/language/config.h"

namespace bessemer {

std::string uses_text(uint32_t users) {
  if (users == kUsedByAll) return "";
  if (users == kUsesControl) return "control";
  if (users == kUsesLanguage) return "language";
  struct Name {
    uint32_t bit;
    const char* text;
  };
  constexpr Name names[] = {{kUsesControl, "control"}, {kUsesSft, "sft"},   {kUsesReward, "reward"},
                            {kUsesDpo, "dpo"},         {kUsesGrpo, "grpo"}, {kUsesPpo, "ppo"},
                            {kUsesAppo, "appo"}};
  std::string out;
  for (const Name& name : names)
    if (users & name.bit) out += (out.empty() ? "" : ", ") + std::string(name.text);
  return out;
}

void DecoderKeys::fields(FieldVisitor& v) {
  v.field("path", path,
          {.doc = "folder with config.json, model.safetensors and tokenizer.json, as transformers "
                  "has them: shape and first weights",
           .path = true});
  v.field("hidden_size", hidden_size,
          {.doc = "width; null: the starting weights', else 128", .min = 8, .max = 65536});
  v.field("num_hidden_layers", num_hidden_layers,
          {.doc = "layers; null: the starting weights', else 4", .min = 1, .max = 1024});
  v.field("num_attention_heads", num_attention_heads,
          {.doc = "query heads; null: the starting weights', else hidden_size / 32",
           .min = 1,
           .max = 1024});
  v.field("num_key_value_heads", num_key_value_heads,
          {.doc = "heads of keys and values; null: the starting weights', else as many as queries",
           .min = 1,
           .max = 1024});
  v.field("intermediate_size", intermediate_size,
          {.doc = "width inside SwiGLU; null: the starting weights', else 8/3 hidden_size in whole "
                  "32s",
           .min = 8,
           .max = 1 << 20});
  v.field("vocabulary", vocabulary,
          {.doc = "bytes, or the size of a byte-level BPE learned from the texts before training"});
  v.field("max_position_embeddings", max_position_embeddings,
          {.doc = "longest text in tokens; null: the starting weights', else 256",
           .min = 8,
           .max = 1 << 24});
  v.field(
      "rope_theta", rope_theta,
      {.doc = "base of the rotary embedding; null: the starting weights', else 10000", .min = 1});
  v.field("tie_word_embeddings", tie_word_embeddings,
          {.doc = "input and output embedding are one"});
  v.field(
      "dtype", dtype,
      {.doc = "of the computation; weights and optimiser stay f32", .choices = {"f32", "bf16"}});
  v.field("checkpoint", checkpoint,
          {.doc = "keep only what enters each layer and compute it again on the way back"});
}

void InitConfig::fields(FieldVisitor& v) {
  v.field("from", from,
          {.doc = "run folder, checkpoint or transformers folder whose weights the run starts from",
           .path = true});
  v.field("recipe", recipe,
          {.doc = "recipe whose run gives the weights; it is run first where that is missing",
           .path = true});
}

void DataConfig::fields(FieldVisitor& v) {
  v.field("from", from,
          {.doc = "FILE.jsonl in TRL's shapes, env (texts of the oracle, pairs of the scorer), or "
                  "{recipe: FILE}: the completions of its run",
           .choices = {"env"}});
  v.field("holdout", holdout,
          {.doc = "share of a file's examples kept for evaluations, chosen by a hash of the text",
           .min = 0,
           .max = 0.9});
  v.used_by(kUsesPairs);
  v.field(
      "chosen", chosen,
      {.doc = "pairs from env: the best of rollout.size samples of the starting weights, or the "
              "oracle; rejected is the worst sample",
       .choices = {"sample", "oracle"}});
}

void RewardConfig::fields(FieldVisitor& v) {
  v.field("from", from, {.doc = "env, model, or py:FILE.py:FUNCTION", .path = true});
  v.field("model", model, {.doc = "run of algo reward, or {recipe: FILE}"});
  v.field("deadline", deadline,
          {.doc = "seconds that a Python function may take for a batch",
           .min = 0,
           .exclusive_min = true});
}

void GenerationKeys::fields(FieldVisitor& v) {
  v.used_by(kUsesOnline | kUsesPairs);
  v.field("groups", groups,
          {.doc = "prompts of an iteration (reward, dpo: trainer.batch_size instead)", .min = 1});
  v.field("size", size, {.doc = "completions of a prompt", .min = 1, .max = 4096});
  v.used_by(kUsesLanguage);
  v.field("max_tokens", max_tokens, {.doc = "tokens of an answer at the most", .min = 1});
  v.used_by(kUsesOnline | kUsesPairs);
  v.field("temperature", temperature,
          {.doc = "of sampling; the trainer divides by the same", .min = 0, .exclusive_min = true});
  v.field("top_k", top_k, {.doc = "sample among so many; 0: all", .min = 0});
  v.field("top_p", top_p,
          {.doc = "sample among the most likely that hold this share",
           .min = 0,
           .max = 1,
           .exclusive_min = true});
}

void PostTraining::fields(FieldVisitor& v) {
  v.used_by(kUsesLanguage);
  v.field("micro_tokens", micro_tokens,
          {.doc = "tokens packed into one pass; larger batches accumulate", .min = 16});
  v.field("warmup_steps", warmup_steps,
          {.doc = "optimiser steps over which lr grows from 0", .min = 0});
  v.used_by(kUsesSft);
  v.field("completion_only", completion_only,
          {.doc = "train answers only; false: every token of a text"});
  v.used_by(kUsesDpo);
  v.field("loss", loss, {.doc = "of a pair", .choices = {"sigmoid", "ipo", "hinge"}});
  v.field("beta", beta,
          {.doc = "strength of the pull to the reference", .min = 0, .exclusive_min = true});
  v.field("label_smoothing", label_smoothing,
          {.doc = "share of pairs believed to be the wrong way round (cDPO)",
           .min = 0,
           .max = 0.499999});
  v.field("reference_free", reference_free, {.doc = "leave the reference out of the loss"});
  v.field("length_normalize", length_normalize,
          {.doc = "log-ratios per token instead of their sum"});
  v.used_by(kUsesReward);
  v.field("center", center,
          {.doc = "weight of (chosen + rejected)^2, which centres rewards at 0", .min = 0});
  v.used_by(kUsesPairs);
  v.field("sft_coef", sft_coef,
          {.doc = "weight of the negative log-likelihood of chosen answers beside the pairs' loss",
           .min = 0});
  v.used_by(kUsesGrpo);
  v.field("advantage", advantage,
          {.doc = "group: (r - mean) / std, none: r - mean (Dr. GRPO), batch: std of the batch, "
                  "leave_one_out: r - mean of the others (RLOO)",
           .choices = {"group", "none", "batch", "leave_one_out"}});
  v.field(
      "credit", credit,
      {.doc = "of conversations with several turns; episode: every token has the advantage of the "
              "episode's reward, turn: that of the rewards from its turn on",
       .choices = {"episode", "turn"}});
  v.field("aggregation", aggregation,
          {.doc = "token_mean (DAPO), sequence_mean (GRPO as published), constant (Dr. GRPO)",
           .choices = {"token_mean", "sequence_mean", "constant"}});
  v.used_by(kUsesOnline);
  v.field("clip_range_high", clip_range_high,
          {.doc = "upper clip of the ratio (DAPO: 0.28); null: clip_range",
           .min = 0,
           .exclusive_min = true});
  v.field("dual_clip", dual_clip,
          {.doc = "bound of the loss for negative advantages (3 in verl); null: none", .min = 1});
  v.field("kl_coef", kl_coef, {.doc = "weight of the KL to the reference", .min = 0});
  v.field(
      "kl", kl,
      {.doc = "estimator with d = log p - log p_ref: k1 = d, k2 = d^2 / 2, k3 = exp(-d) + d - 1",
       .choices = {"k1", "k2", "k3"}});
  v.field("kl_in", kl_in,
          {.doc = "the KL is a term of the loss, or taken off the reward",
           .choices = {"loss", "reward"}});
  v.used_by(kUsesGrpo);
  v.field("dynamic_sampling", dynamic_sampling,
          {.doc = "rounds of new prompts for groups whose rewards are all equal (DAPO)",
           .min = 0,
           .max = 100});
  v.used_by(kUsesOnline);
  v.field(
      "overlong_buffer", overlong_buffer,
      {.doc = "last tokens before max_tokens in which the reward falls (DAPO); 0: none", .min = 0});
  v.field("overlong_factor", overlong_factor, {.doc = "how far it falls", .min = 0});
  v.field("overlong_filter", overlong_filter,
          {.doc = "leave answers that ran out of tokens out of the loss"});
  v.field("missing_eos_penalty", missing_eos_penalty,
          {.doc = "taken off the reward of an answer without its end token", .min = 0});
}

}  // namespace bessemer
