/** Where the program of the thread is. `build.ts` puts a module with the finished text in place. */
export function diskThreadUrl(): string {
  return new URL('./disk-thread.ts', import.meta.url).href
}
