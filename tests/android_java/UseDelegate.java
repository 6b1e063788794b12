import org.kerasprune.KerasPruneDelegate;

/** Makes delegates and frees them; prints what came. */
public final class UseDelegate {
  public static void main(String[] arguments) {
    KerasPruneDelegate first;
    try {
      first = new KerasPruneDelegate();
    } catch (IllegalStateException error) {
      System.out.println("refused: " + error.getMessage());
      return;
    }
    try (KerasPruneDelegate second = new KerasPruneDelegate()) {
      System.out.println("handles: " + (first.getNativeHandle() != 0 && first.getNativeHandle() != second.getNativeHandle()));
    }
    first.close();
    first.close();
    try {
      first.getNativeHandle();
    } catch (IllegalStateException error) {
      System.out.println("closed: " + error.getMessage());
    }
  }
}
