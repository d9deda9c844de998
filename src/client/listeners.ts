/** Who wants to be told of changes. */
export function createListeners<Event>(first?: (event: Event) => void) {
  const listeners = new Set(first && [first])
  return {
    subscribe(listener: (event: Event) => void): () => void {
      listeners.add(listener)
      return () => {
        listeners.delete(listener)
      }
    },
    tell(event: Event): void {
      for (const listener of listeners) {
        try {
          listener(event)
        } catch (error) {
          // Its mistake is no reason for the upload to fail; it is reported like that of any other callback.
          setTimeout(() => {
            throw error
          })
        }
      }
    },
  }
}
