// The player's window under SDL's dummy driver: real events, real renderer, no screen.
#include "envs/render/window.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>

#include "core/base/error.h"

#ifdef BESSEMER_SDL2
#include <SDL.h>

using namespace bessemer;

namespace {

// The environment that a test needs, put back when it is over.
class Driver {
 public:
  explicit Driver(const char* name) {
    for (const char* variable : kVariables) {
      const char* value = std::getenv(variable);
      old_.emplace_back(value ? value : "");
      unsetenv(variable);
    }
    if (name) setenv("SDL_VIDEODRIVER", name, 1);
  }
  ~Driver() {
    for (size_t i = 0; i < old_.size(); ++i) {
      unsetenv(kVariables[i]);
      if (!old_[i].empty()) setenv(kVariables[i], old_[i].c_str(), 1);
    }
  }

 private:
  static constexpr const char* kVariables[] = {"SDL_VIDEODRIVER", "DISPLAY", "WAYLAND_DISPLAY"};
  std::vector<std::string> old_;
};

void press(SDL_Keycode code, bool release = true) {
  SDL_Event event{};
  event.type = SDL_KEYDOWN;
  event.key.keysym.sym = code;
  SDL_PushEvent(&event);
  event.type = SDL_KEYUP;
  if (release) SDL_PushEvent(&event);
}
void mouse(Uint32 type, int x, int y) {
  SDL_Event event{};
  event.type = type;
  if (type == SDL_MOUSEMOTION) {
    event.motion.x = x;
    event.motion.y = y;
  } else {
    event.button.button = SDL_BUTTON_LEFT;
    event.button.x = x;
    event.button.y = y;
  }
  SDL_PushEvent(&event);
}

Canvas picture(int i) {
  Canvas canvas(160, 120);
  canvas.clear({8, 10, 30}, {70, 60, 110});
  canvas.fill_circle({10.0 + i, 60.5}, 9.3, {250, 200, 60});
  return canvas;
}
bool same(const Canvas& a, const Canvas& b) {
  return std::equal(a.pixels().begin(), a.pixels().end(), b.pixels().begin(), b.pixels().end());
}
void film(Player& player, int frames) {
  for (int i = 0; i < frames; ++i) {
    REQUIRE(player.next());
    player.show(picture(i), cat("return ", i));
  }
}

}  // namespace

TEST_CASE("no display is said, not crashed into") {
  const Driver none(nullptr);
  CHECK_FALSE(display_available());
  CHECK_THROWS_AS(Player("x", 160, 120, 50), IoError);
}

TEST_CASE("a display that does not answer") {
  const Driver broken("x11");
  setenv("DISPLAY", ":4711", 1);
  CHECK_FALSE(display_available());
  CHECK_THROWS_AS(Player("x", 160, 120, 50), IoError);
}

TEST_CASE("the window shows the canvas' very pixels") {
  const Driver dummy("dummy");
  REQUIRE(display_available());
  Player player("test", 160, 120, 1000);
  CHECK(player.position() == -1);
  film(player, 5);
  CHECK(same(player.screenshot(), picture(4)));
  CHECK(player.frames() == 5);
  CHECK(player.position() == 4);
  CHECK_THROWS_AS(player.show(Canvas(10, 10)), ValueError);
  CHECK_FALSE(SDL_WasInit(SDL_INIT_AUDIO));
}

TEST_CASE("pause, step back through the past and forward into the future") {
  const Driver dummy("dummy");
  Player player("test", 160, 120, 1000);
  film(player, 10);
  press(SDLK_SPACE);
  press(SDLK_LEFT);
  press(SDLK_LEFT);
  press(SDLK_LEFT);   // to frame 6
  press(SDLK_RIGHT);  // 7, recorded
  press(SDLK_RIGHT);  // 8, recorded
  press(SDLK_RIGHT);  // 9, recorded
  press(SDLK_RIGHT);  // a new one
  REQUIRE(player.next());
  CHECK(player.paused());
  CHECK(player.position() == 9);
  CHECK(same(player.screenshot(), picture(9)));
  player.show(picture(10));
  CHECK(player.position() == 10);
  press(SDLK_HOME);
  press(SDLK_q);
  CHECK_FALSE(player.next());
  CHECK(player.position() == 0);
  CHECK_FALSE(player.next());  // once closed, closed
}

TEST_CASE("the progress bar scrubs, the window then shows that frame") {
  const Driver dummy("dummy");
  Player player("test", 160, 120, 1000);
  film(player, 101);
  mouse(SDL_MOUSEBUTTONDOWN, 10, 126);  // the left end
  mouse(SDL_MOUSEMOTION, 80, 126);      // the middle
  mouse(SDL_MOUSEBUTTONUP, 80, 126);
  mouse(SDL_MOUSEMOTION, 150, 126);  // not dragging any more
  press(SDLK_PERIOD);                // one step: frame 51
  press(SDLK_ESCAPE);
  CHECK_FALSE(player.next());
  CHECK(player.position() == 50);  // closed before the step was taken
  CHECK(player.paused());
}

TEST_CASE("scrubbed back, play passes through the recorded frames before new ones") {
  const Driver dummy("dummy");
  Player player("test", 160, 120, 1000);
  film(player, 20);
  press(SDLK_HOME);
  press(SDLK_SPACE);
  REQUIRE(player.next());
  CHECK(player.position() == 19);
  CHECK(same(player.screenshot(), picture(19)));
  player.show(picture(20));
  CHECK(player.frames() == 21);
}

TEST_CASE("speed changes within its bounds") {
  const Driver dummy("dummy");
  Player player("test", 160, 120, 1000);
  film(player, 1);
  press(SDLK_UP);
  REQUIRE(player.next());
  CHECK(player.speed() == 1.5);
  player.show(picture(1));
  for (int i = 0; i < 20; ++i) press(SDLK_MINUS);
  for (int i = 0; i < 4; ++i) press(SDLK_UP);
  REQUIRE(player.next());
  CHECK(player.speed() == 1);
}

TEST_CASE("a film ends, is scrubbed and closed") {
  const Driver dummy("dummy");
  Player player("test", 160, 120, 1000);
  film(player, 3);
  press(SDLK_HOME);
  press(SDLK_SPACE);  // plays 0, 1, 2 and pauses at the end
  SDL_AddTimer(
      150,
      [](Uint32, void*) -> Uint32 {
        press(SDLK_q);
        return 0;
      },
      nullptr);
  player.linger();
  CHECK(player.position() == 2);
  CHECK(player.frames() == 3);
}

TEST_CASE("in play the arrows are the environment's while it runs") {
  const Driver dummy("dummy");
  Player player("test", 160, 120, 1000, true);
  film(player, 1);
  press(SDLK_UP, false);
  press(SDLK_LEFT, false);
  REQUIRE(player.next());
  CHECK(player.keys() == HeldKeys{.left = true, .up = true});
  CHECK(player.speed() == 1);
  player.show(picture(1));
  press(SDLK_LEFT);  // pressed again and let go
  REQUIRE(player.next());
  CHECK(player.keys() == HeldKeys{.up = true});
}

#else

TEST_CASE("without SDL2 there is no display, and asking for a window says why") {
  CHECK_FALSE(bessemer::display_available());
  CHECK_THROWS_WITH_AS(bessemer::Player("x", 160, 120, 50), doctest::Contains("SDL2"),
                       bessemer::IoError);
}

#endif
