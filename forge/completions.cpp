#include "forge/completions.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/text_file.h"
#include "core/text/utf8.h"
#include "forge/json_lines.h"

namespace bessemer {

namespace {

using Json = nlohmann::json;

std::optional<double> number(const Json& json, const char* name) {
  const auto at = json.find(name);
  if (at == json.end() || !at->is_number()) return std::nullopt;
  return at->get<double>();
}

/// A count: a cast from anything else than a whole number of its range has no meaning.
int64_t whole(const Json& value, const char* name) {
  BESSEMER_CHECK(value.is_number_unsigned() && value.get<uint64_t>() <= uint64_t{INT64_MAX},
                 ValueError, "'", name, "' is not a whole number");
  return value.get<int64_t>();
}

ShownCompletion read_one(const Json& json) {
  ShownCompletion out;
  out.step = whole(json.at("step"), "step");
  if (const auto group = json.find("group"); group != json.end())
    out.group = whole(*group, "group");
  out.kind = json.value("kind", "");
  out.oracle = json.value("oracle", "");
  out.prompt = json.at("prompt").get<std::string>();
  out.completion = json.at("completion").get<std::string>();
  out.finish = json.value("finish", "");
  out.reward = number(json, "reward");
  out.advantage = number(json, "advantage");
  if (const auto parts = json.find("rewards"); parts != json.end() && parts->is_object()) {
    for (const auto& [name, value] : parts->items())
      if (value.is_number()) out.rewards.emplace_back(name, value.get<double>());
  }
  if (const auto tokens = json.find("tokens"); tokens != json.end()) {
    const Json& log_probs = json.at("log_probs");
    for (size_t i = 0; i < tokens->size(); ++i) {
      ShownToken token{tokens->at(i).get<std::string>(), std::nullopt};
      if (log_probs.at(i).is_number()) token.log_prob = log_probs.at(i).get<double>();
      out.tokens.push_back(std::move(token));
    }
  }
  return out;
}

/// A text on one line of the terminal: line breaks as a sign, other controls as dots.
std::string printable(std::string_view text) {
  std::string out;
  for (const char c : utf8_printable(text)) {
    if (c == '\n') {
      out += "\u21b5";
    } else if (c == '\t') {
      out += "\u00b7";
    } else {
      out += c;
    }
  }
  return out;
}

std::string brief(double value) {
  char text[48];
  std::snprintf(text, sizeof text, "%.3g", value);
  return text;
}

/// How sure the model was: 0 at probability 1, 1 from e^-4 down.
double doubt(double log_prob) { return std::clamp(-log_prob / 4.0, 0.0, 1.0); }

struct Rgb {
  int red, green, blue;
};
/// Green over yellow to red.
Rgb colour_of(double log_prob) {
  const double d = doubt(log_prob);
  const auto mix = [](double a, double b, double t) {
    return static_cast<int>(std::lround(a + (b - a) * t));
  };
  if (d < 0.5) return {mix(60, 220, 2 * d), mix(170, 180, 2 * d), mix(90, 60, 2 * d)};
  return {mix(220, 220, 2 * d - 1), mix(180, 70, 2 * d - 1), mix(60, 70, 2 * d - 1)};
}

std::string measures(const ShownCompletion& c) {
  std::string out;
  const auto add = [&](std::string_view name, const std::string& value) {
    out += cat(out.empty() ? "" : "  ", name, " ", value);
  };
  if (c.reward) add("reward", brief(*c.reward));
  for (const auto& [name, value] : c.rewards) add(name, brief(value));
  if (c.advantage) add("advantage", brief(*c.advantage));
  if (!c.finish.empty()) add("finish", c.finish);
  if (!c.oracle.empty() && c.reward && *c.reward < 1) add("right:", c.oracle);
  return out;
}

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : utf8_printable(text)) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

/// The end of a text that is too long for one line, by bytes at a character's border.
std::string_view tail_of(std::string_view text, size_t bytes) {
  if (text.size() <= bytes) return text;
  size_t from = text.size() - bytes;
  while (from < text.size() && (static_cast<unsigned char>(text[from]) & 0xc0) == 0x80) ++from;
  return text.substr(from);
}

/// Tokens whose bytes together are whole characters, so that colours never split one.
std::vector<ShownToken> whole_characters(std::span<const ShownToken> tokens) {
  std::vector<ShownToken> out;
  int missing = 0;  // bytes of the last character
  for (const ShownToken& token : tokens) {
    if (missing > 0 && !out.empty()) {
      out.back().text += token.text;
    } else {
      out.push_back(token);
    }
    for (const char c : token.text) {
      const auto byte = static_cast<unsigned char>(c);
      if (byte >= 0xf0)
        missing = 3;
      else if (byte >= 0xe0)
        missing = 2;
      else if (byte >= 0xc0)
        missing = 1;
      else if (byte >= 0x80)
        missing = std::max(missing - 1, 0);
      else
        missing = 0;
    }
  }
  return out;
}

}  // namespace

std::vector<ShownCompletion> read_completions(const std::filesystem::path& file,
                                              std::optional<int64_t> step) {
  const std::string text = read_text_file(file.string());
  std::vector<ShownCompletion> out;
  each_json_line(text, file.string(), "completions.jsonl", [&](const Json& json) {
    if (step && whole(json.at("step"), "step") != *step) return;
    out.push_back(read_one(json));
  });
  return out;
}

std::string completions_text(std::span<const ShownCompletion> completions, bool colour, int width) {
  const std::string dim = colour ? "\x1b[2m" : "", bold = colour ? "\x1b[1m" : "",
                    plain = colour ? "\x1b[0m" : "";
  std::string out;
  const ShownCompletion* before = nullptr;
  for (const ShownCompletion& c : completions) {
    const bool opens = !before || before->step != c.step || before->kind != c.kind;
    if (opens) {
      out += cat(before ? "\n" : "", bold, "step ", c.step,
                 c.kind == "eval" ? ", held-out items" : "", plain, "\n");
    }
    if (opens || before->prompt != c.prompt) {
      const std::string prompt = printable(c.prompt);
      const auto room = static_cast<size_t>(std::max(width - 4, 20));
      const std::string_view shown = tail_of(prompt, room);
      out += cat(dim, shown.size() < prompt.size() ? "\u2026 " : "  ", shown, plain, "\n");
    }
    out += "    ";
    if (colour && !c.tokens.empty()) {
      for (const ShownToken& token : whole_characters(c.tokens)) {
        if (token.log_prob) {
          const Rgb rgb = colour_of(*token.log_prob);
          out += cat("\x1b[38;2;", rgb.red, ";", rgb.green, ";", rgb.blue, "m",
                     printable(token.text), plain);
        } else {
          out += cat(dim, printable(token.text), plain);
        }
      }
    } else {
      out += printable(c.completion);
    }
    out += cat("\n      ", dim, measures(c), plain, "\n");
    before = &c;
  }
  return out;
}

std::string completions_html(std::span<const ShownCompletion> completions, std::string_view title) {
  std::string out = cat(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>", escaped(title),
      "</title><style>\n"
      "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;"
      "background:#fff;color:#222}\n"
      "h1{font-size:1.3rem}h2{font-size:1rem;margin:2rem 0 .5rem}\n"
      ".prompt{color:#666;white-space:pre-wrap;border-left:3px solid #ccc;padding-left:.8rem;"
      "margin-top:1rem}\n"
      ".answer{font-family:ui-monospace,monospace;white-space:pre-wrap;margin:.4rem 0 0 1rem}\n"
      ".answer span{border-radius:3px}.other{color:#999}\n"
      ".measures{color:#666;font-size:.85rem;margin-left:1rem}\n"
      "@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}"
      ".prompt,.measures{color:#999}}\n"
      "</style></head><body>\n<h1>",
      escaped(title),
      "</h1>\n<p class=\"measures\">Green: the model was sure of the token; red: it was not. "
      "Point at a token for its log-probability.</p>\n");
  const ShownCompletion* before = nullptr;
  for (const ShownCompletion& c : completions) {
    const bool opens = !before || before->step != c.step || before->kind != c.kind;
    if (opens) {
      out += cat("<h2>step ", c.step, c.kind == "eval" ? ", held-out items" : "", "</h2>\n");
    }
    if (opens || before->prompt != c.prompt)
      out += cat("<div class=\"prompt\">", escaped(c.prompt), "</div>\n");
    out += "<div class=\"answer\">";
    if (c.tokens.empty()) out += escaped(c.completion);
    for (const ShownToken& token : whole_characters(c.tokens)) {
      if (!token.log_prob) {
        out += cat("<span class=\"other\">", escaped(token.text), "</span>");
        continue;
      }
      const Rgb rgb = colour_of(*token.log_prob);
      out +=
          cat("<span style=\"background:rgba(", rgb.red, ",", rgb.green, ",", rgb.blue,
              ",.45)\" title=\"", brief(*token.log_prob),
              " (p = ", brief(std::exp(*token.log_prob)), ")\">", escaped(token.text), "</span>");
    }
    out += cat("</div>\n<div class=\"measures\">", escaped(measures(c)), "</div>\n");
    before = &c;
  }
  return out + "</body></html>\n";
}

}  // namespace bessemer
