// A window that plays what is drawn: pause, step, speed, scrubbing over every frame shown so far.
//
//     Player player("LunarLander-v3", canvas.width(), canvas.height(), spec.render_fps);
//     while (player.next()) {                    // waits; false once the user has closed the
//     window
//       key_action(spec, player.keys(), step++, action);      // or a policy's action
//       batch->step({action}, out);
//       batch->render(0, canvas);
//       player.show(canvas, cat("return ", total));
//     }
//
// The window shows a canvas' very pixels; without a display draw the same canvas to a file instead.
// Keys: space plays and pauses; right and left step while paused; up and down (or + and -) change
// the speed; page up and down, home, end and the bar below the picture scrub; q and escape close.
#pragma once

#include <memory>
#include <string>

#include "envs/render/canvas.h"
#include "envs/render/keys.h"

namespace bessemer {

/// True where the build has SDL2 and a display answers. Starts SDL's video for the question only;
/// never touches audio.
bool display_available();

class Player {
 public:
  /// Opens the window. `play`: the arrow keys belong to the environment while it runs (keys()), the
  /// speed then has + and - alone. Throws IoError where no display is available, ValueError for
  /// fps.
  Player(const std::string& title, int width, int height, double fps, bool play = false);
  ~Player();
  Player(const Player&) = delete;
  Player& operator=(const Player&) = delete;

  /// Waits until the next new frame is due, serving the user meanwhile: pauses, steps, plays
  /// recorded frames after scrubbing back. False once the window is closed.
  bool next();
  /// Shows and records a frame; the caption stands in the status line. Throws ValueError for a
  /// picture of another size.
  void show(const Canvas& canvas, const std::string& caption = {});
  /// No more frames will come: lets the user scrub until the window is closed.
  void linger();

  HeldKeys keys() const;
  bool paused() const;
  double speed() const;
  int64_t position() const;  // of the frame shown, counted from 0; -1 before the first
  int64_t frames() const;    // recorded so far
  /// What the window shows of the canvas, read back from the renderer.
  Canvas screenshot() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace bessemer
