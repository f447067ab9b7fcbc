#include "envs/render/window.h"

#include "core/base/error.h"

#ifdef BESSEMER_SDL2
#include <SDL.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>

#include "envs/render/frame_store.h"

namespace bessemer {
namespace {

constexpr int kBar = 30;     // height of the status line below the picture
constexpr int kMargin = 10;  // at both ends of the progress bar
constexpr std::array<double, 11> kSpeeds{0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 4, 8, 16, 32};
constexpr size_t kNormalSpeed = 4;

/// Video is started when the first window opens and ended when the last one closes.
class Video {
 public:
  Video() {
    // A window of a training run must not take ctrl-C from the program.
    SDL_SetHint(SDL_HINT_NO_SIGNAL_HANDLERS, "1");
    if (SDL_InitSubSystem(SDL_INIT_VIDEO) != 0) {
      fail<IoError>("[window] no display: ", static_cast<const char*>(SDL_GetError()));
    }
  }
  ~Video() { SDL_QuitSubSystem(SDL_INIT_VIDEO); }
  Video(const Video&) = delete;
  Video& operator=(const Video&) = delete;
};

/// Asking SDL where nothing names a display would let it take over a server's text console.
bool display_named() {
  for (const char* name : {"DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"}) {
    const char* value = std::getenv(name);
    if (value && *value) return true;
  }
  return false;
}

template <auto Destroy>
struct Destroyer {
  template <class T>
  void operator()(T* p) const {
    Destroy(p);
  }
};

double seconds() {
  return static_cast<double>(SDL_GetPerformanceCounter()) /
         static_cast<double>(SDL_GetPerformanceFrequency());
}

std::string speed_text(double speed) { return cat(speed, "×"); }

}  // namespace

bool display_available() {
  if (!display_named()) return false;
  try {
    const Video video;
    return true;
  } catch (const IoError&) {
    return false;
  }
}

struct Player::Impl {
  Impl(const std::string& title, int w, int h, double rate, bool play_mode)
      : width(w), height(h), fps(rate), play(play_mode), frame(w, h), bar(w, kBar), store(w, h) {
    window.reset(SDL_CreateWindow(title.c_str(), SDL_WINDOWPOS_CENTERED, SDL_WINDOWPOS_CENTERED, w,
                                  h + kBar, SDL_WINDOW_RESIZABLE));
    if (!window) fail<IoError>("[window] ", static_cast<const char*>(SDL_GetError()));
    SDL_SetHint(SDL_HINT_RENDER_SCALE_QUALITY, "linear");  // of a resized window; exact at 1:1
    renderer.reset(SDL_CreateRenderer(window.get(), -1, 0));
    if (!renderer) fail<IoError>("[window] ", static_cast<const char*>(SDL_GetError()));
    SDL_RenderSetLogicalSize(renderer.get(), w, h + kBar);
    picture = texture(w, h);
    status = texture(w, kBar);
    frame.clear({16, 16, 22});
    due = seconds();
    present();
  }

  using Texture = std::unique_ptr<SDL_Texture, Destroyer<SDL_DestroyTexture>>;
  Texture texture(int w, int h) {
    Texture made(SDL_CreateTexture(renderer.get(), SDL_PIXELFORMAT_RGB24,
                                   SDL_TEXTUREACCESS_STREAMING, w, h));
    if (!made) fail<IoError>("[window] ", static_cast<const char*>(SDL_GetError()));
    return made;
  }

  int64_t last() const { return store.size() - 1; }

  void draw_bar() {
    const Color dim{150, 152, 168}, bright{222, 224, 235}, accent{244, 200, 60};
    bar.clear({24, 24, 32});
    const double left = kMargin, right = width - kMargin, y = 6;
    bar.line({left, y}, {right, y}, 3, {60, 60, 76});
    if (store.size() > 0) {
      const double span = static_cast<double>(std::max<int64_t>(1, last() - store.first()));
      const double x = left + (right - left) * static_cast<double>(cursor - store.first()) / span;
      bar.line({left, y}, {x, y}, 3, accent);
      bar.fill_circle({x, y}, dragging ? 5.5 : 4, accent);
    }
    constexpr double base = 23, size = 8;
    if (paused) {
      bar.fill_rect({left, base - size}, {left + 2.6, base}, bright);
      bar.fill_rect({left + 5, base - size}, {left + 7.6, base}, bright);
    } else {
      const Point triangle[] = {{left, base - size}, {left + 7.6, base - size / 2}, {left, base}};
      bar.fill_polygon(triangle, bright);
    }
    const std::string position = cat(cursor + 1, " / ", store.size());
    const std::string fixed = cat(speed_text(kSpeeds[speed]), "   ", position);
    bar.text({left + 16, base}, fixed, size, dim);
    const double from = left + 16 + bar.text_width(fixed, size) + 16;
    const std::string hint = paused ? "space play · ←→ step · PgUp/PgDn scrub · q quit" : "";
    double room = right - from;
    if (store.size() > 0) {
      const std::string& caption = store.caption(cursor);
      bar.text({from, base}, caption, size, bright);
      room -= bar.text_width(caption, size) + 20;
    }
    const double hint_width = bar.text_width(hint, 7);
    if (hint_width <= room) bar.text({right - hint_width, base}, hint, 7, dim);
  }

  void present() {
    draw_bar();
    SDL_UpdateTexture(picture.get(), nullptr, frame.pixels().data(), width * 3);
    SDL_UpdateTexture(status.get(), nullptr, bar.pixels().data(), width * 3);
    SDL_SetRenderDrawColor(renderer.get(), 0, 0, 0, 255);
    SDL_RenderClear(renderer.get());
    compose();
    SDL_RenderPresent(renderer.get());
    dirty = false;
  }
  void compose() const {
    const SDL_Rect above{0, 0, width, height}, below{0, height, width, kBar};
    SDL_RenderCopy(renderer.get(), picture.get(), nullptr, &above);
    SDL_RenderCopy(renderer.get(), status.get(), nullptr, &below);
  }

  void seek(int64_t index) {
    if (store.size() == 0) return;
    index = std::clamp(index, store.first(), last());
    if (index == cursor) return;
    cursor = index;
    store.read(cursor, frame);
    dirty = true;
  }

  void seek_pixel(int x) {
    const double share =
        std::clamp((x - kMargin) / static_cast<double>(std::max(1, width - 2 * kMargin)), 0.0, 1.0);
    seek(store.first() + std::llround(share * static_cast<double>(last() - store.first())));
  }

  void change_speed(int by) {
    const int wanted = static_cast<int>(speed) + by;
    speed = static_cast<size_t>(std::clamp(wanted, 0, static_cast<int>(kSpeeds.size()) - 1));
    dirty = true;
  }

  void set_paused(bool value) {
    paused = value;
    if (!paused) due = seconds();
    dirty = true;
  }

  void key(SDL_Keycode code) {
    const bool arrows_act = play && !paused;
    const auto second = static_cast<int64_t>(std::max(1.0, std::round(fps)));
    switch (code) {
      case SDLK_SPACE:
        set_paused(!paused);
        break;
      case SDLK_q:
      case SDLK_ESCAPE:
        closed = true;
        break;
      case SDLK_RIGHT:
      case SDLK_PERIOD:
        if (paused) ++steps;
        break;
      case SDLK_LEFT:
      case SDLK_COMMA:
        if (paused) seek(cursor - 1);
        break;
      case SDLK_UP:
        if (!arrows_act) change_speed(1);
        break;
      case SDLK_DOWN:
        if (!arrows_act) change_speed(-1);
        break;
      case SDLK_PLUS:
      case SDLK_EQUALS:
      case SDLK_KP_PLUS:
        change_speed(1);
        break;
      case SDLK_MINUS:
      case SDLK_KP_MINUS:
        change_speed(-1);
        break;
      case SDLK_PAGEUP:
        scrub(cursor - second);
        break;
      case SDLK_PAGEDOWN:
        scrub(cursor + second);
        break;
      case SDLK_HOME:
        scrub(store.first());
        break;
      case SDLK_END:
        scrub(last());
        break;
      default:
        break;
    }
  }
  /// Scrubbing looks at the past, so it pauses.
  void scrub(int64_t index) {
    set_paused(true);
    seek(index);
  }

  void hold(SDL_Keycode code, bool down) {
    if (code == SDLK_LEFT) held.left = down;
    if (code == SDLK_RIGHT) held.right = down;
    if (code == SDLK_UP) held.up = down;
    if (code == SDLK_DOWN) held.down = down;
  }

  void handle(const SDL_Event& event) {
    switch (event.type) {
      case SDL_QUIT:
        closed = true;
        break;
      case SDL_KEYDOWN:
        hold(event.key.keysym.sym, true);
        key(event.key.keysym.sym);
        break;
      case SDL_KEYUP:
        hold(event.key.keysym.sym, false);
        break;
      case SDL_MOUSEBUTTONDOWN:
        if (event.button.button != SDL_BUTTON_LEFT) break;
        if (event.button.y >= height) {
          dragging = true;
          set_paused(true);
          seek_pixel(event.button.x);
        } else {
          set_paused(!paused);
        }
        break;
      case SDL_MOUSEMOTION:
        if (dragging) seek_pixel(event.motion.x);
        break;
      case SDL_MOUSEBUTTONUP:
        dragging = false;
        dirty = true;
        break;
      case SDL_WINDOWEVENT:
        if (event.window.event == SDL_WINDOWEVENT_FOCUS_LOST) held = {};
        if (event.window.event == SDL_WINDOWEVENT_CLOSE) closed = true;
        dirty = true;
        break;
      default:
        break;
    }
  }

  void serve() {
    SDL_Event event;
    while (SDL_PollEvent(&event)) handle(event);
  }
  void wait(double most) {
    SDL_Event event;
    const int milliseconds = std::max(1, static_cast<int>(most * 1000));
    if (most > 0.0015 && SDL_WaitEventTimeout(&event, milliseconds)) handle(event);
  }

  /// One frame forward: a recorded one is shown (false), else a new one is wanted (true).
  bool advance(bool ended) {
    if (cursor < last()) {
      seek(cursor + 1);
      return false;
    }
    if (ended) set_paused(true);
    return !ended;
  }

  bool next(bool ended) {
    for (;;) {
      serve();
      if (closed) return false;
      if (store.size() == 0 && !ended) return true;
      if (paused) {
        if (steps > 0) {
          --steps;
          if (advance(ended)) return true;
        }
        if (dirty) present();
        if (steps == 0) wait(0.1);
        continue;
      }
      steps = 0;
      const double now = seconds(), interval = 1 / (fps * kSpeeds[speed]);
      if (now < due) {
        if (dirty) present();
        wait(due - now);
        continue;
      }
      // After a slow frame the film goes on from now; it does not hurry to catch up.
      due = std::max(due + interval, now);
      if (advance(ended)) return true;
      if (dirty) present();
    }
  }

  Video video;
  int width, height;
  double fps;
  bool play;
  Canvas frame, bar;
  FrameStore store;
  std::unique_ptr<SDL_Window, Destroyer<SDL_DestroyWindow>> window;
  std::unique_ptr<SDL_Renderer, Destroyer<SDL_DestroyRenderer>> renderer;
  Texture picture, status;
  int64_t cursor = -1;
  int64_t steps = 0;  // asked for while paused
  size_t speed = kNormalSpeed;
  double due = 0;
  bool paused = false, closed = false, dragging = false, dirty = false;
  HeldKeys held;
};

Player::Player(const std::string& title, int width, int height, double fps, bool play) {
  BESSEMER_CHECK(fps > 0 && std::isfinite(fps), ValueError, "[window] fps must be positive, got ",
                 fps);
  BESSEMER_CHECK(display_named(), IoError,
                 "[window] no display: neither DISPLAY nor WAYLAND_DISPLAY is set");
  impl_ = std::make_unique<Impl>(title, width, height, fps, play);
}
Player::~Player() = default;

bool Player::next() { return impl_->next(false); }
void Player::linger() {
  while (impl_->next(true)) {
  }
}

void Player::show(const Canvas& canvas, const std::string& caption) {
  impl_->store.push(canvas, caption);
  impl_->cursor = impl_->last();
  impl_->frame.blit(canvas, 0, 0);
  impl_->present();
}

HeldKeys Player::keys() const { return impl_->held; }
bool Player::paused() const { return impl_->paused; }
double Player::speed() const { return kSpeeds[impl_->speed]; }
int64_t Player::position() const { return impl_->cursor; }
int64_t Player::frames() const { return impl_->store.size(); }

Canvas Player::screenshot() const {
  impl_->compose();
  Canvas shot(impl_->width, impl_->height);
  const SDL_Rect area{0, 0, impl_->width, impl_->height};
  if (SDL_RenderReadPixels(impl_->renderer.get(), &area, SDL_PIXELFORMAT_RGB24,
                           shot.writable_pixels().data(), impl_->width * 3) != 0) {
    fail<IoError>("[window] ", static_cast<const char*>(SDL_GetError()));
  }
  return shot;
}

}  // namespace bessemer

#else

namespace bessemer {

struct Player::Impl {};

bool display_available() { return false; }
Player::Player(const std::string&, int, int, double, bool) {
  fail<IoError>("[window] built without SDL2 (package libsdl2-dev)");
}
// A Player cannot exist in this build: the constructor throws.
Player::~Player() = default;
bool Player::next() { return false; }
void Player::show(const Canvas&, const std::string&) {}
void Player::linger() {}
HeldKeys Player::keys() const { return {}; }
bool Player::paused() const { return false; }
double Player::speed() const { return 1; }
int64_t Player::position() const { return -1; }
int64_t Player::frames() const { return 0; }
Canvas Player::screenshot() const { return Canvas(1, 1); }

}  // namespace bessemer

#endif
