#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

namespace fastvision {

// A registered operator, called through the dispatcher. Looking it up takes a lock: keep it in a static variable.
template <class Signature>
c10::TypedOperatorHandle<Signature> find_operator(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

}  // namespace fastvision
