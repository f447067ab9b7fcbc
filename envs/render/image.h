// PNG files of a canvas.
#pragma once

#include <string>

#include "envs/render/canvas.h"

namespace bessemer {

/// True where the build has libpng.
bool png_available();

/// Writes `path` aside and renames it, so that a failure leaves no half picture. Throws IoError
/// with the system's reason (no permission, no space, no folder), or where the build has no libpng.
void write_png(const std::string& path, const Canvas& canvas);

/// Reads an 8-bit picture of any PNG colour type as RGB, alpha dropped. Throws IoError for a file
/// that cannot be read or is damaged.
Canvas read_png(const std::string& path);

}  // namespace bessemer
