/** A React hook for one upload at a time, and a component that uses it. Works with Preact as well. */
import { createUpload, type Upload, type UploadOptions, type UploadProgress } from 'nexus-uploader/client'
import { createElement as h, useCallback, useEffect, useState, useSyncExternalStore } from 'react'

const nothing: UploadProgress = {
  state: 'idle',
  sentBytes: 0,
  totalBytes: 0,
  speed: 0,
  secondsLeft: null,
  url: null,
  error: null,
}

export function useUpload() {
  const [upload, setUpload] = useState<Upload | null>(null)
  const subscribe = useCallback((listener: () => void) => upload?.subscribe(listener) ?? (() => {}), [upload])
  // Rendering on a server as well takes a third argument: () => nothing.
  const progress = useSyncExternalStore(subscribe, () => upload?.progress ?? nothing)

  // A component that goes away stops sending. What has arrived stays: the same file goes on from there.
  useEffect(() => {
    upload?.resume()
    return () => upload?.pause()
  }, [upload])

  const send = useCallback((file: File, options?: UploadOptions) => {
    const next = createUpload(file, options)
    setUpload(next)
    // How it ends is in `progress`.
    next.start().catch(() => {})
  }, [])
  return { progress, send, upload }
}

export function FileUpload({ endpoint }: { endpoint: string }) {
  const { progress, send, upload } = useUpload()
  const { state, sentBytes, totalBytes, url, error } = progress
  const choose = (event: { currentTarget: unknown }) => {
    const [file] = (event.currentTarget as { files: File[] }).files
    if (file) send(file, { endpoint })
  }
  const toggle = () => (state === 'paused' ? upload?.resume() : upload?.pause())
  return h(
    'div',
    null,
    h('input', { type: 'file', onChange: choose }),
    h('progress', { max: 1, value: totalBytes > 0 ? sentBytes / totalBytes : 0 }),
    h('button', { type: 'button', onClick: toggle }, 'Pause or resume'),
    h('output', null, error instanceof Error ? error.message : state),
    url !== null && h('a', { href: url }, 'The file'),
  )
}
