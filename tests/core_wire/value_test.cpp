#include "core/wire/value.h"

#include <doctest/doctest.h>

#include <functional>
#include <limits>
#include <random>

#include "core/wire/message.h"

using namespace bessemer;
using namespace bessemer::wire;

namespace {

Code code_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const WireError& error) {
    return error.code();
  }
  return Code::internal;
}

Message sample() {
  static const float numbers[6] = {1, 2, 3, 4, 5, 6};
  static const uint8_t bytes[3] = {7, 8, 9};
  Message message("step");
  message.id = 42;
  message.session = "abc";
  message.ack = 41;
  message.fields = {{"mode", "batch"}, {"seeds", List{Value(1), Value(uint64_t{1} << 63)}}};
  message.add("action", Dtype::f32, {2, 3}, numbers);
  message.add("mask", Dtype::u8, {3}, bytes);
  return message;
}

std::string header_of(const Message& message) {
  std::string header;
  encode_header(message, header);
  return header;
}

}  // namespace

TEST_CASE("value: what is packed is unpacked") {
  const Map map{{"null", Value()},
                {"yes", true},
                {"least", std::numeric_limits<int64_t>::min()},
                {"most", std::numeric_limits<uint64_t>::max()},
                {"pi", 3.25},
                {"text",
                 "Gr\xc3\xbc\xc3\x9f"
                 "e"},
                {"list", List{Value(1), Value("two"), Value(List{})}},
                {"map", Map{{"inner", -5}}}};
  const Map back = unpack(pack(map));
  CHECK(back.at("null").null());
  CHECK(back.flag("yes", false));
  CHECK_EQ(back.integer("least"), std::numeric_limits<int64_t>::min());
  CHECK_EQ(back.count("most"), std::numeric_limits<uint64_t>::max());
  CHECK_EQ(back.number("pi"), 3.25);
  CHECK_EQ(back.text("text"),
           "Gr\xc3\xbc\xc3\x9f"
           "e");
  CHECK_EQ(back.list("list")[1].text("item"), "two");
  CHECK_EQ(back.map("map").integer("inner"), -5);
  CHECK_EQ(pack(back), pack(map));
}

TEST_CASE("value: readers name the key, what was wanted and what there is") {
  const Map map{{"a", "text"}, {"n", -1}, {"none", Value()}};
  CHECK_THROWS_WITH_AS(map.integer("b"), "[wire] 'b' is missing", WireError);
  CHECK_THROWS_WITH_AS(map.integer("a"), "[wire] 'a' must be an integer, is text", WireError);
  CHECK_THROWS_WITH_AS(map.count("n"), "[wire] 'n' must not be negative, is -1", WireError);
  CHECK_EQ(map.integer("none", 7), 7);
  CHECK_EQ(map.integer("b", 8), 8);
  CHECK_THROWS_AS(map.integer("a", 8), WireError);
}

TEST_CASE("value: bytes that are no header are refused") {
  const auto refused = [](std::string_view bytes) { return code_of([&] { unpack(bytes); }); };
  CHECK_EQ(refused(""), Code::malformed);
  CHECK_EQ(refused("\xc1"), Code::malformed);                      // never used
  CHECK_EQ(refused("\x05"), Code::malformed);                      // no map
  CHECK_EQ(refused("\x81\x01\x02"), Code::malformed);              // key is a number
  CHECK_EQ(refused("\x82\xa1x\x01\xa1x\x02"), Code::malformed);    // a key twice
  CHECK_EQ(refused("\x81\xa1x\xd4\x01\x01"), Code::malformed);     // ext
  CHECK_EQ(refused(std::string("\x80\x00", 2)), Code::malformed);  // bytes after the end
  CHECK_EQ(refused("\xdf\xff\xff\xff\xff"), Code::malformed);      // 4 G items promised
  CHECK_EQ(refused("\x81\xa1x\xdd\xff\xff\xff\xff"), Code::malformed);
  std::string deep = "\x81\xa1x";
  deep.append(100, '\x91');
  CHECK_EQ(refused(deep + "\x01"), Code::too_large);
  CHECK_EQ(code_of([] {
             unpack(pack({{"x", List(100, Value(1))}}), {.depth = 16, .values = 50});
           }),
           Code::too_large);
}

TEST_CASE("message: header and frames round trip") {
  const Message message = sample();
  Message back = decode_header(header_of(message));
  CHECK_EQ(back.type, "step");
  CHECK_EQ(back.id, 42);
  CHECK_EQ(back.session, "abc");
  CHECK_EQ(back.ack, 41);
  CHECK_EQ(back.fields.text("mode"), "batch");
  CHECK_EQ(back.fields.list("seeds")[1].count("seed"), uint64_t{1} << 63);
  const std::string_view frames[] = {{static_cast<const char*>(message.arrays[0].view.data), 24},
                                     {static_cast<const char*>(message.arrays[1].view.data), 3}};
  attach_frames(back, frames);
  CHECK_EQ(back.array("action").as<const float>()[5], 6.0f);
  const int64_t shape[] = {2, 3}, other[] = {3, 2};
  CHECK_NOTHROW(back.array("action", Dtype::f32, shape));
  CHECK_THROWS_WITH_AS(back.array("action", Dtype::f64, other),
                       "[wire] step: array 'action' is float32 (2, 3), expected float64 (3, 2)",
                       WireError);
  CHECK_EQ(code_of([&] { back.array("reward"); }), Code::malformed);
}

TEST_CASE("message: frames must fit the header") {
  const Message message = sample();
  Message back = decode_header(header_of(message));
  const char zeros[32] = {};
  const std::string_view good[] = {{zeros, 24}, {zeros, 3}};
  const std::string_view truncated[] = {{zeros, 23}, {zeros, 3}};
  CHECK_NOTHROW(attach_frames(back, good));
  CHECK_EQ(code_of([&] { attach_frames(back, truncated); }), Code::malformed);
  CHECK_EQ(code_of([&] { attach_frames(back, std::span(good).first(1)); }), Code::malformed);
}

TEST_CASE("message: shapes cannot overflow or exceed the limit") {
  const auto header = [](List shape, const char* dtype = "float32") {
    return pack({{"type", "x"},
                 {"arrays", List{Value(List{Value("a"), Value(dtype), Value(std::move(shape))})}}});
  };
  const Value big(int64_t{1} << 40);
  CHECK_EQ(code_of([&] { decode_header(header({big})); }), Code::too_large);
  CHECK_EQ(code_of([&] { decode_header(header({big, big, big})); }), Code::too_large);
  CHECK_EQ(code_of([&] { decode_header(header({Value(0), big, big})); }), Code::too_large);
  CHECK_EQ(code_of([&] { decode_header(header(List(4, Value(65536)))); }), Code::too_large);
  CHECK_EQ(code_of([&] { decode_header(header({Value(-1)})); }), Code::malformed);
  CHECK_EQ(code_of([&] { decode_header(header(List(9, Value(1)))); }), Code::bad_type);
  CHECK_EQ(code_of([&] { decode_header(header({}, "complex")); }), Code::bad_type);
  CHECK_EQ(decode_header(header({Value(0), Value(5)})).array("a").bytes(), 0);
  CHECK_EQ(code_of([&] { decode_header(pack({{"type", "x"}, {"arrays", 5}})); }), Code::malformed);
  CHECK_EQ(code_of([&] { decode_header(std::string(2 << 20, 'x')); }), Code::too_large);
}

TEST_CASE("message: any damage gives a typed error or another message, never a crash") {
  const std::string good = header_of(sample());
  std::mt19937 random(7);
  int read = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string bytes = good;
    for (uint32_t i = 0, n = 1 + random() % 6; i < n; ++i) {
      const size_t at = random() % bytes.size();
      switch (random() % 4) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes.resize(at + 1);
          break;
        case 2:
          bytes.insert(at, 1, static_cast<char>(random()));
          break;
        default:
          bytes[at] ^= static_cast<char>(1u << (random() % 8));
          break;
      }
    }
    try {
      Message message = decode_header(bytes);
      ++read;
      std::vector<std::string_view> frames(random() % 4, std::string_view(good).substr(0, 24));
      attach_frames(message, frames);
    } catch (const WireError&) {
    }
  }
  CHECK_GT(read, 100);    // some damage only changes a value
  CHECK_LT(read, 19000);  // most is noticed
}
