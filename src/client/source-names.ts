import type { UploadOptions } from './types.ts'

/** What the file is called: by the options, else by itself. */
export function namesOf({ fileName, mimeType }: UploadOptions, name = '', type = '') {
  return { name: fileName ?? (name || 'file'), type: mimeType ?? type }
}
