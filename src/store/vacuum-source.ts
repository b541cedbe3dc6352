/** Where the program of the thread is. `build.ts` puts a module with the finished text in place. */
export function vacuumUrl(): string {
  return new URL('./vacuum-thread.ts', import.meta.url).href
}
