// What the two mountain cars share: the track, its picture, their bounds.
#pragma once

#include "envs/sim/classic.h"

namespace bessemer::mountain {

inline constexpr double kLeft = -1.2, kRight = 0.6, kSpeed = 0.07;

Spec spec(std::string id, std::string doc);
void draw(double position, double goal, Canvas& canvas);

}  // namespace bessemer::mountain
