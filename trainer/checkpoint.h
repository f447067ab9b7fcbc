// Checkpoint folders that are whole or absent. A checkpoint is written aside, synced, described by
// a manifest (size and CRC-32C of every file), renamed to step-<number>, and only then named by the
// pointer file `latest`. A kill or a full disk at any moment leaves the one before it in place.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "core/base/error.h"

namespace bessemer {

/// Version of the layout; a newer one is refused.
constexpr int64_t kCheckpointFormat = 1;

/// Lets `fill` write files into a new folder and makes it the newest checkpoint under `root`; keeps
/// the `keep` newest ones. Returns its folder. Throws IoError, and what `fill` throws; nothing has
/// changed then.
std::filesystem::path write_checkpoint(
    const std::filesystem::path& root, int64_t step, int64_t keep,
    const std::function<void(const std::filesystem::path& folder)>& fill);

/// Every checkpoint under `root`, oldest first.
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& root);

/// The checkpoint that `latest` names, or the newest; an empty path where there is none.
std::filesystem::path latest_checkpoint(const std::filesystem::path& root);

/// Throws ValueError naming the file unless `folder` is a checkpoint of this or an older format
/// whose files are all there, with the size and checksum they were written with.
void verify_checkpoint(const std::filesystem::path& folder);

}  // namespace bessemer
