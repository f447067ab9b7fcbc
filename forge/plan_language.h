// The plan of a run that trains a language model, line by line.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "forge/prerequisites.h"
#include "trainer/algorithm.h"

namespace bessemer {

using PlanLine = std::function<void(std::string_view name, const std::string& text)>;

/// What is learned in, from which weights and texts, how much a step holds.
void language_plan(const Recipe& recipe, const std::vector<Prerequisite>& prerequisites,
                   const PlanLine& line);

/// A recipe whose prerequisites are missing, made good enough for a plan: sizes of the model as
/// their recipes say, nothing loaded.
Recipe planned_recipe(Recipe recipe, const std::vector<Prerequisite>& prerequisites);

}  // namespace bessemer
