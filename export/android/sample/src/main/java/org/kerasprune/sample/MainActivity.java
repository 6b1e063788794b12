package org.kerasprune.sample;

import android.app.Activity;
import android.content.res.AssetFileDescriptor;
import android.os.Bundle;
import android.widget.TextView;
import java.io.FileInputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import org.kerasprune.KerasPruneDelegate;
import org.tensorflow.lite.Interpreter;

/** Shows the time of an inference of assets/model.tflite, a packed file with one input and one output. */
public final class MainActivity extends Activity {
  private static final int CALLS = 200;

  @Override
  protected void onCreate(Bundle state) {
    super.onCreate(state);
    TextView view = new TextView(this);
    setContentView(view);
    view.setText("…");
    new Thread(() -> show(view)).start();
  }

  private void show(TextView view) {
    String text;
    try {
      text = measure();
    } catch (IOException | RuntimeException error) {
      text = error.toString();
    }
    String shown = text;
    runOnUiThread(() -> view.setText(shown));
  }

  private String measure() throws IOException {
    try (KerasPruneDelegate delegate = new KerasPruneDelegate();
        Interpreter interpreter = new Interpreter(model(), new Interpreter.Options().addDelegate(delegate))) {
      ByteBuffer input = memory(interpreter.getInputTensor(0).numBytes());
      ByteBuffer output = memory(interpreter.getOutputTensor(0).numBytes());
      run(interpreter, input, output); // the first call is slower
      long start = System.nanoTime();
      for (int i = 0; i < CALLS; i++) {
        run(interpreter, input, output);
      }
      return String.format("%.4f ms", (System.nanoTime() - start) / 1e6 / CALLS);
    }
  }

  private static void run(Interpreter interpreter, ByteBuffer input, ByteBuffer output) {
    input.rewind();
    output.rewind();
    interpreter.run(input, output);
  }

  private static ByteBuffer memory(int size) {
    return ByteBuffer.allocateDirect(size).order(ByteOrder.nativeOrder());
  }

  private ByteBuffer model() throws IOException {
    try (AssetFileDescriptor asset = getAssets().openFd("model.tflite");
        FileInputStream file = new FileInputStream(asset.getFileDescriptor())) {
      return file.getChannel().map(FileChannel.MapMode.READ_ONLY, asset.getStartOffset(), asset.getLength());
    }
  }
}
