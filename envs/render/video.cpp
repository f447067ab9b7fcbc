#include "envs/render/video.h"

#include "core/base/error.h"

#ifdef BESSEMER_VIDEO
extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/imgutils.h>
#include <libavutil/opt.h>
#include <libswscale/swscale.h>
}
#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

namespace bessemer {

namespace {

// Every function of FFmpeg that is used, by library.
// (clang-format has no stable form for these lists)
// clang-format off
#define BESSEMER_AVUTIL(F) \
  F(av_strerror) F(av_frame_alloc) F(av_frame_free) F(av_frame_get_buffer) \
  F(av_frame_make_writable) F(av_dict_set) F(av_dict_free) F(av_d2q) F(av_log_set_level)
#define BESSEMER_AVCODEC(F) \
  F(avcodec_find_encoder_by_name) F(avcodec_alloc_context3) F(avcodec_free_context) \
  F(avcodec_open2) F(avcodec_send_frame) F(avcodec_receive_packet) F(avcodec_send_packet) \
  F(avcodec_receive_frame) F(avcodec_parameters_from_context) \
  F(avcodec_parameters_to_context) F(av_packet_alloc) F(av_packet_free) F(av_packet_unref) \
  F(av_packet_rescale_ts)
#define BESSEMER_AVFORMAT(F) \
  F(avformat_alloc_output_context2) F(avformat_free_context) F(avformat_new_stream) \
  F(avformat_write_header) F(av_write_trailer) F(av_interleaved_write_frame) F(avio_open) \
  F(avio_closep) F(avio_flush) F(avformat_open_input) F(avformat_close_input) \
  F(avformat_find_stream_info) F(av_find_best_stream) F(av_read_frame)
#define BESSEMER_SWSCALE(F) \
  F(sws_getContext) F(sws_freeContext) F(sws_scale) F(sws_getCoefficients) \
  F(sws_setColorspaceDetails)
// clang-format on

/// FFmpeg's functions, opened when first needed: linking the libraries would load a hundred others
/// into every program that can draw, 30 ms at each start. Their versions are those of the headers.
struct Ffmpeg {
#define BESSEMER_MEMBER(name) decltype(&::name) name = nullptr;
  BESSEMER_AVUTIL(BESSEMER_MEMBER)
  BESSEMER_AVCODEC(BESSEMER_MEMBER)
  BESSEMER_AVFORMAT(BESSEMER_MEMBER)
  BESSEMER_SWSCALE(BESSEMER_MEMBER)
#undef BESSEMER_MEMBER
  std::string missing;  // the loader's reason, empty where all is there

  Ffmpeg() {
    void* library = nullptr;
    const auto open = [&](const char* stem, int major) {
      if (!missing.empty()) return;
      library = dlopen(cat("lib", stem, ".so.", major).c_str(), RTLD_NOW | RTLD_LOCAL);
      if (!library) missing = static_cast<const char*>(dlerror());
    };
    const auto find = [&](auto& function, const char* name) {
      if (!missing.empty()) return;
      function =
          reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
      if (!function) missing = cat("no function ", name);
    };
#define BESSEMER_FIND(name) find(this->name, #name);
    open("avutil", LIBAVUTIL_VERSION_MAJOR);
    BESSEMER_AVUTIL(BESSEMER_FIND)
    open("avcodec", LIBAVCODEC_VERSION_MAJOR);
    BESSEMER_AVCODEC(BESSEMER_FIND)
    open("avformat", LIBAVFORMAT_VERSION_MAJOR);
    BESSEMER_AVFORMAT(BESSEMER_FIND)
    open("swscale", LIBSWSCALE_VERSION_MAJOR);
    BESSEMER_SWSCALE(BESSEMER_FIND)
#undef BESSEMER_FIND
  }
};

const Ffmpeg& loaded() {
  static const Ffmpeg functions;
  return functions;
}
/// Throws IoError where the libraries are not installed.
const Ffmpeg& av() {
  const Ffmpeg& functions = loaded();
  BESSEMER_CHECK(functions.missing.empty(), IoError, "[video] FFmpeg: ", functions.missing);
  return functions;
}

std::string reason(int code) {
  char text[AV_ERROR_MAX_STRING_SIZE] = {};
  av().av_strerror(code, text, sizeof text);
  return text;
}

struct Freer {
  void operator()(AVCodecContext* p) const { loaded().avcodec_free_context(&p); }
  void operator()(AVFrame* p) const { loaded().av_frame_free(&p); }
  void operator()(AVPacket* p) const { loaded().av_packet_free(&p); }
  void operator()(AVFormatContext* p) const { loaded().avformat_close_input(&p); }
  void operator()(SwsContext* p) const { loaded().sws_freeContext(p); }
};
using CodecContext = std::unique_ptr<AVCodecContext, Freer>;
using Frame = std::unique_ptr<AVFrame, Freer>;
using Packet = std::unique_ptr<AVPacket, Freer>;
using Scaler = std::unique_ptr<SwsContext, Freer>;

}  // namespace

bool video_available() { return loaded().missing.empty(); }

struct VideoWriter::Impl {
  std::string path, aside, codec_name;
  int width, height;  // of the canvases
  AVFormatContext* format = nullptr;
  AVStream* stream = nullptr;
  CodecContext codec;
  Frame frame;
  Packet packet;
  Scaler scaler;
  std::vector<uint8_t> padded;  // a canvas's pixels, and room behind them
  int64_t frames = 0;
  bool finished = false;

  ~Impl() {
    close_file();
    if (!finished) std::remove(aside.c_str());
  }

  void check(int code, const char* what) const {
    if (code < 0) fail<IoError>("[video] cannot write ", path, ": ", what, ": ", reason(code));
  }

  int close_file() {
    int code = 0;
    if (format) {
      if (format->pb) code = av().avio_closep(&format->pb);
      av().avformat_free_context(format);
      format = nullptr;
    }
    return code;
  }

  /// The first encoder that exists and opens: some are compiled in but need hardware.
  void open_codec(AVRational rate) {
    for (const char* name : {"libx264", "libopenh264", "h264", "mpeg4"}) {
      const AVCodec* found = av().avcodec_find_encoder_by_name(name);
      if (!found) continue;
      codec.reset(av().avcodec_alloc_context3(found));
      codec->width = width & ~1;
      codec->height = height & ~1;
      codec->pix_fmt = AV_PIX_FMT_YUV420P;
      codec->framerate = rate;
      codec->time_base = {rate.den, rate.num};
      codec->gop_size = 50;
      codec->thread_count = 1;
      codec->colorspace = AVCOL_SPC_BT709;
      codec->color_primaries = AVCOL_PRI_BT709;
      codec->color_trc = AVCOL_TRC_BT709;
      codec->color_range = AVCOL_RANGE_MPEG;
      if (format->oformat->flags & AVFMT_GLOBALHEADER) codec->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
      AVDictionary* options = nullptr;
      if (std::string_view(name) == "libx264") {
        av().av_dict_set(&options, "preset", "veryfast", 0);
        av().av_dict_set(&options, "crf", "20", 0);
        av().av_dict_set(&options, "tune", "animation", 0);
      } else {
        codec->bit_rate = int64_t{6} * codec->width * codec->height;
      }
      const int code = av().avcodec_open2(codec.get(), found, &options);
      av().av_dict_free(&options);
      if (code >= 0) {
        codec_name = name;
        return;
      }
    }
    fail<IoError>("[video] cannot write ", path, ": FFmpeg has no H.264 or MPEG-4 encoder");
  }

  void encode(const AVFrame* picture) {
    check(av().avcodec_send_frame(codec.get(), picture), "encode");
    for (;;) {
      const int code = av().avcodec_receive_packet(codec.get(), packet.get());
      if (code == AVERROR(EAGAIN) || code == AVERROR_EOF) return;
      check(code, "encode");
      av().av_packet_rescale_ts(packet.get(), codec->time_base, stream->time_base);
      packet->stream_index = stream->index;
      check(av().av_interleaved_write_frame(format, packet.get()), "write");
      check(format->pb->error, "write");
    }
  }
};

VideoWriter::VideoWriter(const std::string& path, int width, int height, double fps)
    : impl_(std::make_unique<Impl>()) {
  BESSEMER_CHECK(fps > 0 && fps <= 1000, ValueError, "[video] fps must lie in (0, 1000], got ",
                 fps);
  BESSEMER_CHECK(width >= 16 && height >= 16, ValueError,
                 "[video] a film needs 16 x 16 pixels, got ", width, " x ", height);
  av().av_log_set_level(AV_LOG_QUIET);  // errors are thrown, not printed
  Impl& v = *impl_;
  v.path = path;
  v.aside = cat(path, ".", static_cast<int64_t>(getpid()), ".part");
  v.width = width;
  v.height = height;
  v.check(av().avformat_alloc_output_context2(&v.format, nullptr, "mp4", v.aside.c_str()),
          "container");
  v.open_codec(av().av_d2q(fps, 100000));
  v.stream = av().avformat_new_stream(v.format, nullptr);
  BESSEMER_CHECK(v.stream, MemoryError, "[video] no memory for a stream");
  v.stream->time_base = v.codec->time_base;
  v.stream->avg_frame_rate = v.codec->framerate;
  v.check(av().avcodec_parameters_from_context(v.stream->codecpar, v.codec.get()), "stream");
  v.check(av().avio_open(&v.format->pb, v.aside.c_str(), AVIO_FLAG_WRITE), "open");
  AVDictionary* options = nullptr;
  av().av_dict_set(&options, "movflags", "faststart", 0);
  const int code = av().avformat_write_header(v.format, &options);
  av().av_dict_free(&options);
  v.check(code, "header");
  v.frame.reset(av().av_frame_alloc());
  v.packet.reset(av().av_packet_alloc());
  BESSEMER_CHECK(v.frame && v.packet, MemoryError, "[video] no memory for a frame");
  v.frame->format = v.codec->pix_fmt;
  v.frame->width = v.codec->width;
  v.frame->height = v.codec->height;
  v.check(av().av_frame_get_buffer(v.frame.get(), 0), "frame");
  v.scaler.reset(av().sws_getContext(v.codec->width, v.codec->height, AV_PIX_FMT_RGB24,
                                     v.codec->width, v.codec->height, AV_PIX_FMT_YUV420P,
                                     SWS_BICUBIC | SWS_ACCURATE_RND, nullptr, nullptr, nullptr));
  BESSEMER_CHECK(v.scaler, IoError, "[video] cannot write ", path, ": no colour conversion");
  const int* bt709 = av().sws_getCoefficients(SWS_CS_ITU709);
  av().sws_setColorspaceDetails(v.scaler.get(), bt709, 1, bt709, 0, 0, 1 << 16, 1 << 16);
}

VideoWriter::~VideoWriter() = default;

void VideoWriter::push(const Canvas& canvas) {
  Impl& v = *impl_;
  BESSEMER_CHECK(!v.finished, ValueError, "[video] ", v.path, " is finished");
  BESSEMER_CHECK(canvas.width() == v.width && canvas.height() == v.height, ValueError,
                 "[video] a frame of ", canvas.width(), " x ", canvas.height(), " in a film of ",
                 v.width, " x ", v.height);
  v.check(av().av_frame_make_writable(v.frame.get()), "frame");
  // Whole vectors are read, also at the end of the last row.
  const std::span<const uint8_t> pixels = canvas.pixels();
  v.padded.resize(pixels.size() + AV_INPUT_BUFFER_PADDING_SIZE);
  std::copy(pixels.begin(), pixels.end(), v.padded.begin());
  const uint8_t* source[4] = {v.padded.data()};
  const int stride[4] = {canvas.width() * 3};
  av().sws_scale(v.scaler.get(), source, stride, 0, v.codec->height, v.frame->data,
                 v.frame->linesize);
  v.frame->pts = v.frames++;
  v.encode(v.frame.get());
}

void VideoWriter::finish() {
  Impl& v = *impl_;
  BESSEMER_CHECK(!v.finished, ValueError, "[video] ", v.path, " is finished");
  BESSEMER_CHECK(v.frames > 0, ValueError, "[video] ", v.path, " has no frames");
  v.encode(nullptr);
  v.check(av().av_write_trailer(v.format), "trailer");
  av().avio_flush(v.format->pb);
  v.check(v.format->pb->error, "write");
  v.check(v.close_file(), "close");
  if (std::rename(v.aside.c_str(), v.path.c_str()) != 0) v.check(AVERROR(errno), "rename");
  v.finished = true;
}

int64_t VideoWriter::frames() const { return impl_->frames; }
const std::string& VideoWriter::codec() const { return impl_->codec_name; }

VideoInfo video_info(const std::string& path) {
  const auto check = [&](int code) {
    if (code < 0) fail<IoError>("[video] cannot read ", path, ": ", reason(code));
  };
  av().av_log_set_level(AV_LOG_QUIET);
  AVFormatContext* opened = nullptr;
  check(av().avformat_open_input(&opened, path.c_str(), nullptr, nullptr));
  const std::unique_ptr<AVFormatContext, Freer> format(opened);
  check(av().avformat_find_stream_info(format.get(), nullptr));
  const AVCodec* decoder = nullptr;
  const int index = av().av_find_best_stream(format.get(), AVMEDIA_TYPE_VIDEO, -1, -1, &decoder, 0);
  check(index);
  const AVStream* stream = format->streams[index];
  const CodecContext codec(av().avcodec_alloc_context3(decoder));
  check(av().avcodec_parameters_to_context(codec.get(), stream->codecpar));
  check(av().avcodec_open2(codec.get(), decoder, nullptr));
  VideoInfo info{.width = codec->width, .height = codec->height, .codec = decoder->name};
  info.fps = av_q2d(stream->avg_frame_rate);
  const Frame frame(av().av_frame_alloc());
  const Packet packet(av().av_packet_alloc());
  bool draining = false;
  for (;;) {
    const int code = av().avcodec_receive_frame(codec.get(), frame.get());
    if (code >= 0) {
      ++info.frames;
      continue;
    }
    if (code == AVERROR_EOF) return info;
    if (code != AVERROR(EAGAIN) || draining) check(code);
    const int read = av().av_read_frame(format.get(), packet.get());
    if (read < 0 && read != AVERROR_EOF) check(read);
    draining = read == AVERROR_EOF;
    if (!draining && packet->stream_index != index) {
      av().av_packet_unref(packet.get());
      continue;
    }
    check(av().avcodec_send_packet(codec.get(), draining ? nullptr : packet.get()));
    av().av_packet_unref(packet.get());
  }
}

}  // namespace bessemer

#else

namespace bessemer {

struct VideoWriter::Impl {};

namespace {
[[noreturn]] void refuse(const std::string& path) {
  fail<IoError>("[video] ", path,
                ": built without FFmpeg's libraries (packages libavcodec-dev, "
                "libavformat-dev, libswscale-dev)");
}
const std::string kNoCodec;
}  // namespace

bool video_available() { return false; }
VideoWriter::VideoWriter(const std::string& path, int, int, double) { refuse(path); }
VideoWriter::~VideoWriter() = default;
void VideoWriter::push(const Canvas&) {}
void VideoWriter::finish() {}
int64_t VideoWriter::frames() const { return 0; }
const std::string& VideoWriter::codec() const { return kNoCodec; }
VideoInfo video_info(const std::string& path) { refuse(path); }

}  // namespace bessemer

#endif
