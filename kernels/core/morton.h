// Morton ("shuffled") keys of octree nodes: x in the highest bit of each triple, object index in bits 48 and up.
#pragma once
#include <cstdint>

#include "core/host_device.h"

namespace zerograsp {

constexpr int kObjectShift = 48;
constexpr std::int64_t kMortonMask = (std::int64_t{1} << kObjectShift) - 1;
constexpr int kMaxDepth = 10;  // three times ten bits: a node's key within its object fits 32 bits

// Moves the ten low bits of v apart: bit i goes to bit 3 i.
ZG_HD std::uint32_t spread_bits(std::uint32_t v) {
  v &= 0x3ffu;
  v = (v | (v << 16)) & 0x030000ffu;
  v = (v | (v << 8)) & 0x0300f00fu;
  v = (v | (v << 4)) & 0x030c30c3u;
  v = (v | (v << 2)) & 0x09249249u;
  return v;
}

// The inverse of spread_bits.
ZG_HD std::uint32_t gather_bits(std::uint32_t v) {
  v &= 0x09249249u;
  v = (v | (v >> 2)) & 0x030c30c3u;
  v = (v | (v >> 4)) & 0x0300f00fu;
  v = (v | (v >> 8)) & 0x030000ffu;
  v = (v | (v >> 16)) & 0x3ffu;
  return v;
}

ZG_HD std::uint32_t morton_encode(std::uint32_t x, std::uint32_t y, std::uint32_t z) {
  return (spread_bits(x) << 2) | (spread_bits(y) << 1) | spread_bits(z);
}

ZG_HD void morton_decode(std::uint32_t key, std::int32_t* x, std::int32_t* y, std::int32_t* z) {
  *x = static_cast<std::int32_t>(gather_bits(key >> 2));
  *y = static_cast<std::int32_t>(gather_bits(key >> 1));
  *z = static_cast<std::int32_t>(gather_bits(key));
}

ZG_HD std::int64_t object_key(std::int64_t object, std::uint32_t morton) {
  return (object << kObjectShift) | static_cast<std::int64_t>(morton);
}

// Key of child 0..7 of a node, one depth further down; the object's bits stay where they are.
ZG_HD std::int64_t child_key(std::int64_t key, int child) {
  return (key & ~kMortonMask) | ((key & kMortonMask) << 3) | child;
}

}  // namespace zerograsp
