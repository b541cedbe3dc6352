/** What a start needs is fetched, not at hand, if it is not there after this time. */
const fetchingFromMs = 250

/**
 * Settles as `work` does. Where that takes long, `tell` is told so, and that it is over: not when
 * it failed, because who hears of the failure knows, and must not act on less before.
 */
export async function fetched(
  work: Promise<void>,
  tell: (isFetching: boolean) => void,
): Promise<void> {
  let isLong = false
  const timer = setTimeout(() => {
    isLong = true
    tell(true)
  }, fetchingFromMs)
  try {
    await work
  } finally {
    clearTimeout(timer)
  }
  if (isLong) tell(false)
}
