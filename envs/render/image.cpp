#include "envs/render/image.h"

#include "core/base/error.h"

#ifdef BESSEMER_PNG
#include <png.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#endif

namespace bessemer {

#ifdef BESSEMER_PNG

bool png_available() { return true; }

namespace {

// libpng's simplified interface writes the whole picture to memory; the file itself is written
// here, because only then is the system's reason for a failure known.
std::string encode(const Canvas& canvas, const std::string& path) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(canvas.width());
  image.height = static_cast<png_uint_32>(canvas.height());
  image.format = PNG_FORMAT_RGB;
  std::string bytes(PNG_IMAGE_PNG_SIZE_MAX(image), '\0');
  png_alloc_size_t size = bytes.size();
  const int good =
      png_image_write_to_memory(&image, bytes.data(), &size, 0, canvas.pixels().data(), 0, nullptr);
  BESSEMER_CHECK(good, IoError, "[png] cannot encode ", path, ": ",
                 static_cast<const char*>(image.message));
  bytes.resize(size);
  return bytes;
}

}  // namespace

void write_png(const std::string& path, const Canvas& canvas) {
  const std::string bytes = encode(canvas, path);
  const std::string aside = cat(path, ".", static_cast<int64_t>(getpid()), ".part");
  std::FILE* file = std::fopen(aside.c_str(), "wb");
  BESSEMER_CHECK(file, IoError, "[png] cannot write ", path, ": ",
                 static_cast<const char*>(std::strerror(errno)));
  const size_t written = std::fwrite(bytes.data(), 1, bytes.size(), file);
  int error = written == bytes.size() ? 0 : errno;
  if (std::fclose(file) != 0 && error == 0) error = errno;
  if (error == 0 && std::rename(aside.c_str(), path.c_str()) != 0) error = errno;
  if (error != 0) {
    std::remove(aside.c_str());
    fail<IoError>("[png] cannot write ", path, ": ",
                  static_cast<const char*>(std::strerror(error)));
  }
}

Canvas read_png(const std::string& path) {
  std::FILE* opened = std::fopen(path.c_str(), "rb");
  BESSEMER_CHECK(opened, IoError, "[png] cannot read ", path, ": ",
                 static_cast<const char*>(std::strerror(errno)));
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(opened, std::fclose);
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  BESSEMER_CHECK(png_image_begin_read_from_stdio(&image, file.get()), IoError, "[png] cannot read ",
                 path, ": ", static_cast<const char*>(image.message));
  image.format = PNG_FORMAT_RGB;
  if (image.width > 16384 || image.height > 16384) {
    png_image_free(&image);
    fail<IoError>("[png] cannot read ", path, ": larger than 16384 pixels a side");
  }
  Canvas canvas(static_cast<int>(image.width), static_cast<int>(image.height));
  const png_color black{};
  BESSEMER_CHECK(png_image_finish_read(&image, &black, canvas.writable_pixels().data(), 0, nullptr),
                 IoError, "[png] cannot read ", path, ": ",
                 static_cast<const char*>(image.message));
  return canvas;
}

#else

bool png_available() { return false; }

void write_png(const std::string& path, const Canvas&) {
  fail<IoError>("[png] cannot write ", path, ": built without libpng (package libpng-dev)");
}
Canvas read_png(const std::string& path) {
  fail<IoError>("[png] cannot read ", path, ": built without libpng (package libpng-dev)");
}

#endif

}  // namespace bessemer
