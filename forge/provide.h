// What a recipe stands on is there before its run begins.
#pragma once

#include <utility>

#include "forge/runner.h"

namespace bessemer {

/// A run that others stand on was interrupted: so are they.
struct PrerequisiteInterrupted {
  RunSummary summary;
};

/// The recipe with everything it stands on in place; runs that are missing or not finished come
/// first. Of several processes that want the same run one makes it while the others wait. Throws
/// PrerequisiteInterrupted, and what Runner::run throws.
Recipe provide(const Runner& runner, Recipe recipe);

/// What `body` gives, or the summary of the prerequisite that was interrupted under it.
template <class Body>
RunSummary unless_interrupted(Body&& body) {
  try {
    return body();
  } catch (PrerequisiteInterrupted& interrupted) {
    return std::move(interrupted.summary);
  }
}

}  // namespace bessemer
