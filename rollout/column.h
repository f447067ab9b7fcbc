// A column of a rollout: numbers of its own, or a view of a message that stays alive as long.
// Samples from workers are read where they arrived.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

namespace bessemer {

template <class T>
class Column {
 public:
  using value_type = T;

  Column() = default;
  /// A copy has numbers of its own.
  Column(const Column& other) { assign(other.begin(), other.end()); }
  Column& operator=(const Column& other) {
    if (this != &other) assign(other.begin(), other.end());
    return *this;
  }
  Column(Column&& other) noexcept { swap(other); }
  Column& operator=(Column&& other) noexcept {
    swap(other);
    return *this;
  }
  Column& operator=(const std::vector<T>& values) {
    assign(values.data(), values.data() + values.size());
    return *this;
  }
  /// Looks at memory that `held` keeps alive.
  static Column view(T* data, size_t size, std::shared_ptr<const void> held) {
    Column out;
    out.data_ = data;
    out.size_ = size;
    out.held_ = std::move(held);
    return out;
  }

  /// New numbers are zero.
  void resize(size_t size) {
    if (held_) assign(begin(), end());
    own_.resize(size);
    data_ = own_.data();
    size_ = size;
  }

  std::vector<T> vector() const { return {begin(), end()}; }
  T* data() { return data_; }
  const T* data() const { return data_; }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  T* begin() { return data_; }
  T* end() { return data_ + size_; }
  const T* begin() const { return data_; }
  const T* end() const { return data_ + size_; }

  bool operator==(const Column& other) const { return std::ranges::equal(*this, other); }
  bool operator==(const std::vector<T>& other) const { return std::ranges::equal(*this, other); }

 private:
  void assign(const T* first, const T* last) {
    std::vector<T> values(first, last);  // `first` may point into what is replaced
    own_ = std::move(values);
    held_.reset();
    data_ = own_.data();
    size_ = own_.size();
  }
  void swap(Column& other) {
    std::swap(own_, other.own_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(held_, other.held_);
  }

  std::vector<T> own_;
  T* data_ = nullptr;
  size_t size_ = 0;
  std::shared_ptr<const void> held_;
};

}  // namespace bessemer
