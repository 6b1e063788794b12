package org.kerasprune;

import org.tensorflow.lite.Delegate;

/**
 * Runs the packed operators of a file that keras_prune exported.
 *
 * <pre>{@code
 * try (KerasPruneDelegate delegate = new KerasPruneDelegate();
 *     Interpreter interpreter = new Interpreter(file, new Interpreter.Options().addDelegate(delegate))) {
 *   interpreter.run(input, output);
 * }
 * }</pre>
 *
 * The interpreter must be closed before the delegate: resources of one `try` are closed in that order. One delegate may
 * serve several interpreters.
 */
public final class KerasPruneDelegate implements Delegate, AutoCloseable {
  static {
    System.loadLibrary("keras_prune_jni"); // which needs libkeras_prune_delegate.so beside it
  }

  private long handle;

  /** Throws IllegalStateException with the delegate's own message where it cannot be made. */
  public KerasPruneDelegate() {
    handle = create();
  }

  /** The address of the native TfLiteDelegate, for the interpreter. */
  @Override
  public synchronized long getNativeHandle() {
    if (handle == 0) {
      throw new IllegalStateException("KerasPruneDelegate: expected an open delegate, and it is closed; make another");
    }
    return handle;
  }

  /** Frees the delegate; all interpreters that it was given to must be closed before. Closing again does nothing. */
  @Override
  public synchronized void close() {
    if (handle != 0) {
      destroy(handle);
      handle = 0;
    }
  }

  private static synchronized native long create();

  private static native void destroy(long handle);
}
