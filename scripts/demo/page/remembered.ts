/** Uploads that a reload interrupted. The browser does not let a page keep a file, so the person must choose it again. */
const prefix = 'nexus-uploader-demo:'

export interface Remembered {
  readonly client: string
  readonly name: string
  readonly size: number
  readonly lastModified: number
}

export function remember(entry: Remembered): void {
  withStorage((storage) => storage.setItem(keyOf(entry), JSON.stringify(entry)))
}

export function forget(entry: Remembered): void {
  withStorage((storage) => storage.removeItem(keyOf(entry)))
}

export function rememberedUploads(): Remembered[] {
  return (
    withStorage((storage) =>
      Object.keys(storage)
        .filter((key) => key.startsWith(prefix))
        .map((key) => JSON.parse(storage.getItem(key) ?? 'null')),
    ) ?? []
  )
}

export function keyOf({ client, name, size, lastModified }: Remembered): string {
  return `${prefix}${client}:${name}:${size}:${lastModified}`
}

/** Browsers may forbid or fill it; uploads work without. */
function withStorage<Result>(task: (storage: Storage) => Result): Result | null {
  try {
    return task(localStorage)
  } catch {
    return null
  }
}
