package org.tensorflow.lite;

/** What the Android runtime declares under this name, as far as a delegate sees it. */
public interface Delegate {
  long getNativeHandle();
}
